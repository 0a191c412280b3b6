// Pushes to a stream of its own with the Go client of NATS, `window` messages on their way, and prints what was acknowledged.
//
// usage: push URL RECORD_BYTES WINDOW WARM_UP_SECONDS SECONDS
package main

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

type sent struct {
	at     time.Time
	answer jetstream.PubAckFuture
}

func main() {
	recordBytes, window := number(os.Args[2]), int(number(os.Args[3]))
	warmUp, length := seconds(os.Args[4]), seconds(os.Args[5])
	connection, err := nats.Connect(os.Args[1])
	check(err)
	defer connection.Close()
	js, err := jetstream.New(connection, jetstream.WithPublishAsyncMaxPending(window+1))
	check(err)
	name := fmt.Sprintf("bench-%d", time.Now().UnixNano())
	background := context.Background()
	_, err = js.CreateStream(background, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Storage: jetstream.FileStorage})
	check(err)
	defer func() { check(js.DeleteStream(background, name)) }()

	value := make([]byte, int(recordBytes))
	rand.New(rand.NewSource(1)).Read(value)
	from := time.Now().Add(warmUp)
	until, last := from.Add(length), from
	var times []time.Duration
	acknowledged := func(begun time.Time) {
		if now := time.Now(); now.After(from) {
			times, last = append(times, now.Sub(begun)), now
		}
	}
	if window == 1 {
		for time.Now().Before(until) {
			begun := time.Now()
			_, err := js.Publish(background, name, value)
			check(err)
			acknowledged(begun)
		}
	} else {
		// One more is in the hands of whoever waits.
		waiting, done := make(chan sent, window-1), make(chan struct{})
		go func() {
			for own := range waiting {
				select {
				case <-own.answer.Ok():
					acknowledged(own.at)
				case err := <-own.answer.Err():
					check(err)
				}
			}
			close(done)
		}()
		for time.Now().Before(until) {
			begun := time.Now()
			answer, err := js.PublishAsync(name, value)
			check(err)
			waiting <- sent{begun, answer}
		}
		close(waiting)
		<-done
	}
	sort.Slice(times, func(one, two int) bool { return times[one] < times[two] })
	at := func(share float64) float64 { return float64(times[int(float64(len(times)-1)*share)].Nanoseconds()) / 1e3 }
	fmt.Printf("{\"rate\": %.1f, \"p50\": %.1f, \"p99\": %.1f, \"batch\": 1.0}\n", float64(len(times))/last.Sub(from).Seconds(), at(0.5), at(0.99))
}

func number(text string) float64 {
	value, err := strconv.ParseFloat(text, 64)
	check(err)
	return value
}

func seconds(text string) time.Duration {
	return time.Duration(number(text) * float64(time.Second))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
