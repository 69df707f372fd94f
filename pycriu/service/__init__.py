# SPDX-License-Identifier: GPL-2.0-only
"""CRIU's RPC protocol: a worker for each connection, which does what a command line would, for whoever may ask for it.

wire         packets <-> messages
peer         who asks, and what that user may
fields       criu_opts -> the options of the command line
directories  where images and log go
requests     what is done for each type of request
worker       one connection, from its first request to its end
listener     the socket of `pycriu service`
"""
