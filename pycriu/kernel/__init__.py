# SPDX-License-Identifier: GPL-2.0-only
"""What Linux says, as pycriu needs it: system calls under their man-page names, ptrace, and what /proc prints."""
