# SPDX-License-Identifier: GPL-2.0-only
"""What each action is asked to do: the values that `cli` hands to `dump`, `restore` and `check`. Paths are absolute."""

from __future__ import annotations

from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pycriu.pageserver.tls import Files
    from pycriu.restoring.newlife import Start
    from pycriu.tracing.pstree import Process

    # Called with the name of a stage, which CRIU's action scripts have, and the PID of the root (0: not known yet). It
    # raises HookFailed where the work must not go on: possible at pre-dump, post-dump, pre-restore and post-restore.
    Hook = Callable[[str, int], None]

    from pycriu.command.progress import Progress
    from pycriu.edits import Edits


def no_hook(_stage: str, _pid: int) -> None:
    """A hook for whoever does not want to be told."""


def not_told() -> None:
    """`settled` for whoever has no signals to care for."""


VALIDATIONS = ("mtime", "filesize", "buildid", "checksum")  # what must match when a file is opened again


@record
class PageServer:
    """Where a dump sends its pages."""

    address: str | None = None  # None: this machine
    port: int = 0
    socket: int | None = None  # a connection that is there already
    tls: Files | None = None  # `pageserver.tls.Files`, where it is to be secret

    @property
    def name(self) -> str:
        """For messages."""
        if self.socket is not None:
            return f"behind descriptor {self.socket}"
        return f"at {self.address or 'this machine'} port {self.port}"


@record
class DumpOptions:
    """`pycriu dump`."""

    pid: int  # root of the tree
    images_dir: str  # exists
    work_dir: str  # log, pidfile and statistics lie here
    shell_job: bool = False  # session leader or terminal may lie outside the tree
    leave_running: bool = False  # end state of the tree: running, stopped, or killed
    leave_stopped: bool = False
    timeout: int = 10  # seconds for finding and freezing all tasks
    file_locks: bool = False  # keep flock, POSIX and OFD locks, and leases
    link_remap: bool = False  # hard links may be made for deleted files that have other names
    ghost_limit: int = 1 << 20  # bytes of the largest deleted file that goes into the images
    file_validation: str = "mtime"  # what must match when a file is opened again
    force_irmap: bool = False  # look for watched files by scanning paths
    allow_uprobes: bool = False  # what uprobes have left in the memory of a task is left out
    cpu_cap: str | None = None  # what of the CPU goes into cpuinfo.img; None: it is not written
    external: tuple[str, ...] = ()  # names of open files that are not saved, see fds.external
    irmap_scan_path: tuple[str, ...] = ()  # directories to look in first
    evasive_devices: bool = False  # a device may have changed its path
    ext_unix_sk: str | None = None  # inodes of UNIX sockets whose peer may be outside, comma-separated; "": all
    tcp_established: bool = False  # keep TCP connections
    tcp_close: bool = False  # restore them as closed
    skip_in_flight: bool = False  # drop connections that nobody has accepted yet
    network_lock: str = "nftables"  # how packets are held while a connection is away: nftables, skip
    service_socket: int = 0  # inode of our end of a connection whose other end may be in the tree; 0: there is none
    may_dump: Callable[[int], None] | None = None  # called with the id of each task; raises what refuses
    progress: Progress | None = None  # what is shown of the copying of pages
    hook: Hook = no_hook  # stages: pre-dump; post-dump, when the checkpoint is whole and the end of the tree is due
    settled: Callable[[], None] = not_told  # called when nothing is undone any more, whatever ends us
    prev_images_dir: str | None = None  # images of an earlier dump to build upon, relative to images_dir
    page_server: PageServer | None = None  # send pages there, instead of writing them
    track_mem: bool = False  # from now on, the kernel is to note which pages change, where it can
    find: Callable[[], Process] | None = None  # looks for the processes, where these are not `pid` and all below it
    signal: int = 0  # every process gets it when the checkpoint is whole, and goes on; 0: see `leave_running`
    embed: frozenset[str] = frozenset()  # mapped files whose pages are saved, too: see resources.memory.embedding
    pipes_outside: bool = False  # pipes to others may be left out; a restore must be given some (--inherit-fd)
    hooks: str = "ask"  # programs with hooks: ask; try: whoever does not answer is not waited for; skip: ask nobody
    hook_timeout: float = 10  # seconds that they have for an answer
    libdir: str | None = None  # where plugins are, beside pycriu's own


@record
class RestoreOptions:
    """`pycriu restore`."""

    images_dir: str
    work_dir: str  # empty: no statistics are written
    detached: bool = False  # return once the tasks run, instead of waiting for the root
    shell_job: bool = False
    file_locks: bool = False
    link_remap: bool = False
    file_validation: str = "mtime"
    skip_file_rwx_check: bool = False  # the mode bits of files may have changed
    ext_unix_sk: str | None = None
    tcp_established: bool = False
    tcp_close: bool = False
    skip_in_flight: bool = False
    pidfile: str | None = None  # gets the PID of the root; must not exist
    leave_stopped: bool = False
    allow_uprobes: bool = False
    cpu_cap: str | None = None  # what of the CPU must be as cpuinfo.img has it
    terminal: int = -1  # of ours, that can be the user's where none of the standard files is
    inherit_fd: tuple[str, ...] = ()  # descriptors of ours that take the place of files, see fds.external
    sibling: bool = False  # the root becomes a child of our parent
    wait_pid: float = 0  # seconds to wait for PIDs that others have
    edit: tuple[str, ...] = ()  # rules that change the images while they are read, see `edits`
    edit_script: str | None = None  # a JSON patch that does
    edits: Edits | None = None  # changes that are made already, in the place of both
    outer_group: int | None = None  # whoever is in this group stays in ours; None: who is in that of the root
    libdir: str | None = None  # where plugins are, beside pycriu's own
    progress: Progress | None = None  # what is shown of the reading of pages
    settled: Callable[[], None] = not_told  # called when the tasks are about to live, whatever ends us
    new_life: Start | None = None  # under another PID, with what this process was given
    message: bytes = b""  # for programs with hooks, see pycriu.moment()
    hooks: str = "ask"  # programs with hooks are told; skip: they are not
    hook_timeout: float = 10  # seconds that they have for their hooks
    hook: Hook = no_hook  # stages: pre-restore; post-restore and pre-resume, tasks complete; post-resume, they run


@record
class CheckOptions:
    """`pycriu check`."""

    extra: bool = False  # the features that only some tasks need, too
    feature: str | None = None  # only this one
    list_features: bool = False  # name them all, probe none
    experimental: bool = False  # what CRIU calls so, too
    json: bool = False
