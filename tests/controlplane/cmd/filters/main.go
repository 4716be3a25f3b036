// Command filters asks kube-scheduler's own filter plugins whether pods fit
// nodes, and prints what they said: the reference that Atoll's scheduler is
// compared with (scheduler/tests/differential.rs).
//
//	filters generate [-seed N] [-first N] [-worlds N] [-workers N]
//	filters show [-seed N] -world N
//
// A world is a small cluster, made by chance from a seed and its number: nodes,
// namespaces, volumes, pods that are bound, and pods to judge against every
// node. The pods are as an API server would have stored them: defaulted,
// prepared by its strategy, and valid. `generate` writes worlds and verdicts to
// standard output, see frames.go for the form; `show` prints one world as JSON.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
)

const usage = `usage:
  filters generate [-seed N] [-first N] [-worlds N] [-workers N]
  filters show [-seed N] -world N`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "generate":
		err = generate(os.Args[2:])
	case "show":
		err = show(os.Args[2:])
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "filters:", err)
		os.Exit(1)
	}
}

// generate writes worlds as frames, in no particular order.
func generate(args []string) error {
	flags := flag.NewFlagSet("generate", flag.ExitOnError)
	seed := flags.Uint64("seed", 1, "what all chance comes from")
	first := flags.Uint64("first", 0, "number of the first world")
	worlds := flags.Uint64("worlds", 10, "how many worlds")
	workers := flags.Int("workers", runtime.GOMAXPROCS(0), "how many at a time")
	if err := flags.Parse(args); err != nil {
		return err
	}

	first0, err := newJudge()
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	if err := writeFrame(out, header(first0.names)); err != nil {
		return err
	}

	var lock sync.Mutex // of out and failed
	var failed error
	var next atomic.Uint64
	var wait sync.WaitGroup
	work := func(judge *judge) error {
		for {
			n := next.Add(1) - 1
			if n >= *worlds {
				return nil
			}
			world, err := newWorld(*seed, *first+n)
			if err != nil {
				return err
			}
			frame, err := world.frame(judge)
			if err != nil {
				return fmt.Errorf("seed %d, world %d: %w", *seed, world.number, err)
			}
			lock.Lock()
			err = failed
			if err == nil {
				err = writeFrame(out, frame)
			}
			lock.Unlock()
			if err != nil {
				return err
			}
		}
	}
	for i := range max(*workers, 1) {
		wait.Go(func() {
			judge, err := first0, error(nil)
			if i > 0 {
				judge, err = newJudge()
			}
			if err == nil {
				err = work(judge)
			}
			if err != nil {
				lock.Lock()
				failed = err
				lock.Unlock()
			}
		})
	}
	wait.Wait()
	if failed != nil {
		return failed
	}
	return out.Flush()
}

// show prints one world and its verdicts for people.
func show(args []string) error {
	flags := flag.NewFlagSet("show", flag.ExitOnError)
	seed := flags.Uint64("seed", 1, "what all chance comes from")
	number := flags.Uint64("world", 0, "number of the world")
	if err := flags.Parse(args); err != nil {
		return err
	}
	judge, err := newJudge()
	if err != nil {
		return err
	}
	world, err := newWorld(*seed, *number)
	if err != nil {
		return err
	}
	verdicts, err := judge.judge(world)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(world.shown(verdicts, judge.names))
}
