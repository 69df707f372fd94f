// SPDX-License-Identifier: GPL-2.0-only
// Threads of Go: goroutines on few threads, channels, timers, blocking system calls, locked threads, garbage, a panic.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

func block(seed float64) float64 {
	value, total := seed, 0.0
	for step := 1; step < 3000; step++ {
		value = 3.99 * value * (1 - value)
		total += value / float64(step)
	}
	return total
}

func main() {
	var over, wrong int64
	var turns [8]int64
	var group sync.WaitGroup
	for number := 0; number < 8; number++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			if number == 7 {
				runtime.LockOSThread()
			}
			seed := 0.1 + float64(number)/100
			right := block(seed)
			ticker := time.NewTicker(3 * time.Millisecond)
			for atomic.LoadInt64(&over) == 0 {
				if number%3 == 0 {
					<-ticker.C
				} else if number%3 == 1 {
					time.Sleep(2 * time.Millisecond)
				}
				garbage := make([]byte, 1<<16)
				garbage[number] = 1
				if block(seed) != right {
					atomic.AddInt64(&wrong, 1)
				}
				atomic.AddInt64(&turns[number], 1)
			}
		}(number)
	}
	reader, writer, _ := os.Pipe()
	read := make(chan int)
	go func() {
		got, _ := reader.Read(make([]byte, 10))
		read <- got
	}()
	fmt.Println("ready")
	for {
		if _, err := os.Stat("go"); err == nil {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	for number := range turns {
		atomic.StoreInt64(&turns[number], 0)
	}
	time.Sleep(200 * time.Millisecond)
	writer.Write([]byte("four"))
	got := <-read
	atomic.StoreInt64(&over, 1)
	group.Wait()
	all := true
	for number := range turns {
		all = all && turns[number] > 0
	}
	func() {
		defer func() { recover() }()
		var none *int
		*none = 1 // a signal, on the alternate stack of this thread
	}()
	fmt.Printf("wrong %d, turns of all %v, read %d\n", wrong, all, got)
}
