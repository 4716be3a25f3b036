// Command torch-demo stands in for a PyTorch job in tests and demos: it meets
// its peers the way torchrun's workers do, by MASTER_ADDR, MASTER_PORT, RANK
// and WORLD_SIZE, and does one all-reduce, the sum of all ranks, over TCP.
//
// It prints "all-reduce of N ranks = X" once every rank has the sum, then
// exits with status 0, or stays until SIGTERM with --stay.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

type job struct {
	address     string
	rank, world int
}

func main() {
	deadline := flag.Duration("deadline", 2*time.Minute, "how long to wait for all ranks")
	stay := flag.Bool("stay", false, "stay until SIGTERM after the all-reduce")
	flag.Parse()

	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	if err := run(stop, *deadline, *stay); err != nil {
		fmt.Fprintln(os.Stderr, "torch-demo:", err)
		os.Exit(1)
	}
}

func run(stop context.Context, deadline time.Duration, stay bool) error {
	j, err := fromEnvironment()
	if err != nil {
		return err
	}
	fmt.Printf("rank %d of %d, rank 0 is at %s\n", j.rank, j.world, j.address)

	ctx, cancel := context.WithTimeout(stop, deadline)
	defer cancel()
	var sum int
	if j.rank == 0 {
		sum, err = j.lead(ctx)
	} else {
		sum, err = j.follow(ctx)
	}
	if err != nil {
		return err
	}
	fmt.Printf("all-reduce of %d ranks = %d\n", j.world, sum)
	if want := j.world * (j.world - 1) / 2; sum != want {
		return fmt.Errorf("the sum of ranks 0 to %d is %d, not %d", j.world-1, want, sum)
	}
	if stay {
		<-stop.Done()
	}
	return nil
}

func fromEnvironment() (job, error) {
	number := func(name string) (int, error) {
		n, err := strconv.Atoi(os.Getenv(name))
		if err != nil || n < 0 {
			return 0, fmt.Errorf("%s must be a number, is %q", name, os.Getenv(name))
		}
		return n, nil
	}
	rank, err1 := number("RANK")
	world, err2 := number("WORLD_SIZE")
	port, err3 := number("MASTER_PORT")
	if err := errors.Join(err1, err2, err3); err != nil {
		return job{}, err
	}
	host := os.Getenv("MASTER_ADDR")
	if host == "" {
		return job{}, errors.New("MASTER_ADDR must name rank 0's host")
	}
	if rank >= world {
		return job{}, fmt.Errorf("RANK %d is not below WORLD_SIZE %d", rank, world)
	}
	return job{net.JoinHostPort(host, strconv.Itoa(port)), rank, world}, nil
}

// lead is rank 0: it waits until every other rank has said its number, then
// tells all of them the sum. A rank that comes back replaces its old
// connection.
func (j job) lead(ctx context.Context) (int, error) {
	_, port, err := net.SplitHostPort(j.address)
	if err != nil {
		return 0, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+port)
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	context.AfterFunc(ctx, func() { listener.Close() })

	peers := map[int]net.Conn{}
	sum := 0
	for len(peers) < j.world-1 {
		conn, err := listener.Accept()
		if err != nil {
			return 0, fmt.Errorf("%d of %d ranks came: %w", len(peers)+1, j.world, errors.Join(context.Cause(ctx), err))
		}
		rank, err := readNumber(conn, 10*time.Second)
		if err != nil || rank < 1 || rank >= j.world {
			fmt.Printf("%s is no peer: rank %d, %v\n", conn.RemoteAddr(), rank, err)
			conn.Close()
			continue
		}
		if old, again := peers[rank]; again {
			old.Close()
		} else {
			sum += rank
		}
		peers[rank] = conn
	}
	for rank, conn := range peers {
		if _, err := fmt.Fprintln(conn, sum); err != nil {
			return 0, fmt.Errorf("rank %d is gone: %w", rank, err)
		}
		conn.Close()
	}
	return sum, nil
}

// follow is every other rank: it tries rank 0 with growing pauses until the
// deadline, since rank 0 may start, and appear in DNS, later.
func (j job) follow(ctx context.Context) (int, error) {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		sum, err := j.exchange(ctx)
		if err == nil {
			return sum, nil
		}
		fmt.Printf("rank 0 does not answer yet: %v\n", err)
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no all-reduce: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(pause):
		}
	}
}

func (j job) exchange(ctx context.Context) (int, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", j.address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := fmt.Fprintln(conn, j.rank); err != nil {
		return 0, err
	}
	return readNumber(conn, 0)
}

// readNumber reads one line; a limit of zero waits for as long as it takes.
func readNumber(conn net.Conn, limit time.Duration) (int, error) {
	if limit > 0 {
		if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
			return 0, err
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(line[:len(line)-1])
}
