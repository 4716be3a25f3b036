// Command witness is a member that says that it runs: a line with the boot-time
// clock in nanoseconds, twenty times a second, beside its host's name. It is the
// work of Clusters in tests of faults: what these lines span is when it ran.
//
// With --stubborn it ignores SIGTERM, so that only a kill ends it.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"
)

// From <linux/time.h>; it counts while the machine is suspended, and is the same in all containers.
const clockBoottime = 7

func bootNanoseconds() int64 {
	var now syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano()
}

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	if len(os.Args) > 1 && os.Args[1] == "--stubborn" {
		signal.Ignore(syscall.SIGTERM)
	}
	host, _ := os.Hostname()
	// Nobody may read what it says while the container runtime is away: then it says nothing rather than wait.
	_ = syscall.SetNonblock(1, true)
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		_, _ = syscall.Write(1, fmt.Appendf(nil, "%d %s\n", bootNanoseconds(), host))
		select {
		case <-signals:
			return
		case <-tick.C:
		}
	}
}
