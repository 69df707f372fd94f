// SPDX-License-Identifier: GPL-2.0-only

// A client that uses go-criu: CRIU ACTION PID. It prints the stages that it is told of, and how it ended.
package main

import (
	"fmt"
	"os"
	"strconv"

	criu "github.com/checkpoint-restore/go-criu"
	"github.com/checkpoint-restore/go-criu/rpc"
	"google.golang.org/protobuf/proto"
)

type told struct{ criu.NoNotify }

func (told) PreDump() error    { fmt.Println("pre-dump"); return nil }
func (told) PostDump() error   { fmt.Println("post-dump"); return nil }
func (told) PreRestore() error { fmt.Println("pre-restore"); return nil }
func (told) PostRestore(pid int32) error {
	fmt.Println("post-restore", pid)
	return nil
}
func (told) PostResume() error { fmt.Println("post-resume"); return nil }

func options(folder string, pid int) *rpc.CriuOpts {
	images, err := os.Open(folder)
	if err != nil {
		panic(err)
	}
	opts := &rpc.CriuOpts{
		ImagesDirFd: proto.Int32(int32(images.Fd())),
		LogLevel:    proto.Int32(4),
		LogFile:     proto.String("go.log"),
	}
	if pid > 0 {
		opts.Pid = proto.Int32(int32(pid))
	}
	return opts
}

func main() {
	asked := criu.MakeCriu()
	asked.SetCriuPath(os.Args[1])
	pid, _ := strconv.Atoi(os.Args[3])
	var err error
	switch os.Args[2] {
	case "version":
		var version int
		version, err = asked.GetCriuVersion()
		fmt.Println(version)
	case "dump":
		err = asked.Dump(options("images", pid), told{})
	case "pre-dump": // and the dump, on one connection
		if err = asked.Prepare(); err != nil {
			break
		}
		if err = asked.PreDump(options("first", pid), told{}); err != nil {
			break
		}
		rest := options("images", pid)
		rest.ParentImg = proto.String("../first")
		err = asked.Dump(rest, told{})
		asked.Cleanup()
	case "restore":
		err = asked.Restore(options("images", 0), told{})
	}
	if err != nil {
		fmt.Println("error:", err)
	}
}
