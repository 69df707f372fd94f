# SPDX-License-Identifier: GPL-2.0-only
# Completion for pycriu in fish. Made by share/generate.

# Whether the action before the cursor is one of these; without arguments: whether there is none.
function __pycriu_action
    set -l words (commandline -opc)
    set -e words[1]
    set -l skip no
    for word in $words
        if test $skip = yes
            set skip no
            continue
        end
        switch $word
            case -t --tree -D --images-dir -W --work-dir --pidfile --timeout --prev-images-dir --pre-dump-mode --ghost-limit --file-validation --irmap-scan-path --edit --edit-script --external --inherit-fd --enable-fs --network-lock --address --port --ps-socket --tls-cacert --tls-cacrl --tls-cert --tls-key --skip-mnt --action-script --status-fd --close -o --log-file --config --feature
                set skip yes
            case '-*'
            case '*'
                contains -- $word $argv
                return
        end
    end
    test (count $argv) -eq 0
end

complete -c pycriu -f
complete -c pycriu -n '__pycriu_action' -a dump -d 'save a tree of processes'
complete -c pycriu -n '__pycriu_action' -a pre-dump -d 'save the memory of a tree that runs on, so that its dump has less to do'
complete -c pycriu -n '__pycriu_action' -a restore -d 'bring it back'
complete -c pycriu -n '__pycriu_action' -a page-server -d 'receive the pages of a dump elsewhere'
complete -c pycriu -n '__pycriu_action' -a dedup -d 'free the pages of earlier images that -D has newer'
complete -c pycriu -n '__pycriu_action' -a check -d 'does this kernel have what it takes?'
complete -c pycriu -n '__pycriu_action' -a cpuinfo -d 'write down what the CPU offers, or check it against an image'
complete -c pycriu -n '__pycriu_action' -a service -d 'do for others what they ask for through a socket'
complete -c pycriu -n '__pycriu_action' -a swrk -d 'the same for one client, on a socket that it has left open'
complete -c pycriu -n '__pycriu_action cpuinfo' -a 'dump check'
complete -c pycriu -n '__pycriu_action dump pre-dump' -s t -l tree -x -a '(__fish_complete_pids)' -d 'root of the tree to dump'
complete -c pycriu -n '__pycriu_action dump pre-dump restore dedup cpuinfo page-server' -s D -l images-dir -x -a '(__fish_complete_directories)' -d 'where the images are (default: here)'
complete -c pycriu -n '__pycriu_action dump pre-dump restore page-server dedup check cpuinfo service swrk' -s W -l work-dir -x -a '(__fish_complete_directories)' -d 'where log, pidfile and statistics go (default: with the images)'
complete -c pycriu -n '__pycriu_action dump' -s R -l leave-running -d 'let the tasks run on after the dump'
complete -c pycriu -n '__pycriu_action dump restore' -s s -l leave-stopped -d 'leave the tasks stopped'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -s j -l shell-job -d 'session leader or terminal may lie outside the tree'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l no-shell-job -d 'not --shell-job'
complete -c pycriu -n '__pycriu_action restore service page-server' -s d -l restore-detached -d 'return once the tasks run, or the service'
complete -c pycriu -n '__pycriu_action restore service page-server' -l no-restore-detached -d 'not --restore-detached'
complete -c pycriu -n '__pycriu_action restore service page-server' -l daemon -d 'the same as --restore-detached'
complete -c pycriu -n '__pycriu_action restore service page-server' -l no-daemon -d 'not --daemon'
complete -c pycriu -n '__pycriu_action restore service page-server' -l pidfile -r -F -d 'write the PID of the root, or of the service, to FILE, a new file'
complete -c pycriu -n '__pycriu_action dump pre-dump' -l timeout -x -d 'for the whole dump (default: 10, for freezing alone)'
complete -c pycriu -n '__pycriu_action dump restore' -l dry-run -d 'do nothing but say all that stands in the way, and what helps'
complete -c pycriu -n '__pycriu_action dump pre-dump page-server' -l prev-images-dir -x -a '(__fish_complete_directories)' -d 'save only what has changed since the dump in DIR (relative to -D)'
complete -c pycriu -n '__pycriu_action dump pre-dump' -l track-mem -d 'let the kernel note what changes from now on, as pre-dumps do'
complete -c pycriu -n '__pycriu_action dump pre-dump' -l no-track-mem -d 'not --track-mem'
complete -c pycriu -n '__pycriu_action pre-dump' -l pre-dump-mode -x -a 'splice read' -d 'splice or read: both read tasks that run'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l auto-dedup -d 'free pages that are newer here, or were restored'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l no-auto-dedup -d 'not --auto-dedup'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -s l -l file-locks -d 'keep file locks and leases'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l no-file-locks -d 'not --file-locks'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l link-remap -d 'may make hard links for deleted files with other names'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l no-link-remap -d 'not --link-remap'
complete -c pycriu -n '__pycriu_action dump pre-dump' -l ghost-limit -x -d 'largest deleted file to keep (default: 1M)'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l file-validation -x -a 'mtime filesize buildid checksum' -d 'what must match: mtime (default) filesize buildid checksum'
complete -c pycriu -n '__pycriu_action restore' -l skip-file-rwx-check -d 'the mode bits of files may have changed'
complete -c pycriu -n '__pycriu_action restore' -l no-skip-file-rwx-check -d 'not --skip-file-rwx-check'
complete -c pycriu -n '__pycriu_action dump pre-dump' -l force-irmap -d 'find watched files by scanning paths'
complete -c pycriu -n '__pycriu_action dump pre-dump' -l no-force-irmap -d 'not --force-irmap'
complete -c pycriu -n '__pycriu_action dump pre-dump' -l irmap-scan-path -x -a '(__fish_complete_directories)' -d 'look for watched files in DIR, too'
complete -c pycriu -n '__pycriu_action restore' -l edit -x -d 'change images while they are read: files:reg:/old/%=/new/%'
complete -c pycriu -n '__pycriu_action restore' -l edit-script -r -F -d 'the same by a JSON patch on what crit decode shows'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l external -x -d 'not saved: file[MNT:INODE] tty[RDEV:DEV] pipe[INODE] unix[INODE]'
complete -c pycriu -n '__pycriu_action restore' -l inherit-fd -x -d 'our descriptor N replaces a file of the images'
complete -c pycriu -n '__pycriu_action dump pre-dump' -l evasive-devices -d 'a device may have changed its path below /dev'
complete -c pycriu -n '__pycriu_action dump pre-dump' -l no-evasive-devices -d 'not --evasive-devices'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -s x -l ext-unix-sk -f -d 'UNIX sockets may have peers outside (none named: all)'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l tcp-established -d 'keep TCP connections'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l no-tcp-established -d 'not --tcp-established'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l tcp-close -d 'TCP connections come back closed'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l no-tcp-close -d 'not --tcp-close'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l skip-in-flight -d 'drop connections that nobody has accepted yet'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l no-skip-in-flight -d 'not --skip-in-flight'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l network-lock -x -a 'nftables skip none' -d 'how packets are held: nftables (default), skip'
complete -c pycriu -n '__pycriu_action dump pre-dump' -l page-server -d 'send pages to a page server'
complete -c pycriu -n '__pycriu_action dump pre-dump' -l no-page-server -d 'not --page-server'
complete -c pycriu -n '__pycriu_action dump pre-dump page-server service' -l address -x -d 'of the page server, or socket of the service (criu_service.socket)'
complete -c pycriu -n '__pycriu_action dump pre-dump page-server' -l port -x -d 'of the page server'
complete -c pycriu -n '__pycriu_action dump pre-dump page-server' -l ps-socket -x -d 'a connection to the other side that is open already'
complete -c pycriu -n '__pycriu_action dump pre-dump page-server' -l tls -d 'in secret: both sides show and verify certificates'
complete -c pycriu -n '__pycriu_action dump pre-dump page-server' -l no-tls -d 'not --tls'
complete -c pycriu -n '__pycriu_action dump pre-dump page-server' -l tls-cacert -r -F -d 'who is trusted (default: /etc/pki/CA/cacert.pem)'
complete -c pycriu -n '__pycriu_action dump pre-dump page-server' -l tls-cacrl -r -F -d 'who is not any more (default: /etc/pki/CA/cacrl.pem)'
complete -c pycriu -n '__pycriu_action dump pre-dump page-server' -l tls-cert -r -F -d 'our certificate (default: /etc/pki/criu/cert.pem)'
complete -c pycriu -n '__pycriu_action dump pre-dump page-server' -l tls-key -r -F -d 'its key (default: /etc/pki/criu/private/key.pem)'
complete -c pycriu -n '__pycriu_action dump pre-dump page-server' -l tls-no-cn-verify -d 'whatever name is in the other certificate'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l manage-cgroups -f -a 'none ignore' -d 'none or ignore, as it is: control groups are left alone'
complete -c pycriu -n '__pycriu_action dump pre-dump restore service' -l action-script -r -F -d 'tell PROGRAM of each stage, by CRTOOLS_SCRIPT_ACTION'
complete -c pycriu -n '__pycriu_action restore' -l exec-cmd -d 'then run the command behind --, as parent of the root'
complete -c pycriu -n '__pycriu_action restore' -s S -l restore-sibling -d 'the root becomes a child of our parent (needs -d)'
complete -c pycriu -n '__pycriu_action restore' -l no-restore-sibling -d 'not --restore-sibling'
complete -c pycriu -n '__pycriu_action service page-server' -l status-fd -x -d 'write a zero byte there when ready to serve, and close it'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l close -x -d 'close this descriptor first'
complete -c pycriu -n '__pycriu_action dump pre-dump restore service cpuinfo check' -l unprivileged -d 'run by a user who has CAP_CHECKPOINT_RESTORE'
complete -c pycriu -n '__pycriu_action dump pre-dump restore service cpuinfo check' -l no-unprivileged -d 'not --unprivileged'
complete -c pycriu -n '__pycriu_action dump restore cpuinfo' -l cpu-cap -f -a 'cpu fpu ins all none' -d 'the CPU must have: cpu fpu ins all none, ^ takes one away'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l allow-uprobes -d 'programs may have been under uprobes'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l no-allow-uprobes -d 'not --allow-uprobes'
complete -c pycriu -n '__pycriu_action dump pre-dump restore page-server dedup check cpuinfo service swrk' -s o -l log-file -r -F -d 'log to FILE in the work directory; - is standard output'
complete -c pycriu -n '__pycriu_action dump pre-dump restore page-server dedup check cpuinfo service swrk' -s v -l verbosity -f -a '1 2 3 4' -d '1 errors, 2 warnings (default), 3 steps, 4 all; -v adds 1'
complete -c pycriu -n '__pycriu_action dump pre-dump restore page-server dedup check cpuinfo service swrk' -l config -r -F -d 'read options from FILE too, one per line, without dashes'
complete -c pycriu -n '__pycriu_action dump pre-dump restore page-server dedup check cpuinfo service swrk' -l no-default-config -d 'do not read /etc/criu/default.conf and ~/.criu/default.conf'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l display-stats -d 'print the figures that stats-dump and stats-restore have'
complete -c pycriu -n '__pycriu_action dump pre-dump restore' -l no-display-stats -d 'not --display-stats'
complete -c pycriu -n '__pycriu_action check' -l feature -x -d 'probe only this feature'
complete -c pycriu -n '__pycriu_action check' -l extra -d 'probe what only some tasks need, too'
complete -c pycriu -n '__pycriu_action check' -l no-extra -d 'not --extra'
complete -c pycriu -n '__pycriu_action check' -l experimental -d 'probe what CRIU calls experimental, too'
complete -c pycriu -n '__pycriu_action check' -l no-experimental -d 'not --experimental'
complete -c pycriu -n '__pycriu_action check' -l all -d 'both of that'
complete -c pycriu -n '__pycriu_action check' -l list -d 'name all features that can be probed'
complete -c pycriu -n '__pycriu_action dump restore check' -l json -d 'the outcome of a check or of a dry run as JSON'
complete -c pycriu -s h -l help -d 'this text'
complete -c pycriu -s V -l version -d 'the version'
