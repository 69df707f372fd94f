# SPDX-License-Identifier: GPL-2.0-only
"""A small embedded-Linux build layer: templates and recipes in, one explicit ninja graph and an image out."""
