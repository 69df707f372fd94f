# SPDX-License-Identifier: GPL-2.0-only
"""Pages over the network, in the protocol of CRIU's page server.

wire     what is said, and how; TCP, or a socket that is already there
tls      the same in secret, between two who know each other
client   a dump sends its pages
server   receives them and makes images of them
"""
