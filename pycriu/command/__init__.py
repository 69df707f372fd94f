# SPDX-License-Identifier: GPL-2.0-only
"""What a command needs beside its action: words and files of options, help, scripts, progress, the background."""
