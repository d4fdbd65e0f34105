// Publishes events from JSON lines, or a demo's: see README.md.
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

func main() {
	brokers := flag.String("brokers", "", "`HOST:PORT` of one broker or more, between commas")
	topic := flag.String("topic", "", "where the lines of FILE go")
	demo := flag.Int("demo", -1, "publish `N` made-up predictions and their labels instead")
	predictions := flag.String("predictions-topic", "driftline.predictions", "of the demo")
	labels := flag.String("labels-topic", "driftline.labels", "of the demo")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: producer --brokers HOST:PORT --topic NAME FILE | --demo N    FILE: JSON lines, perhaps .gz; - is stdin")
		flag.PrintDefaults()
	}
	flag.Parse()
	isFile, isDemo := *topic != "" && flag.NArg() == 1, *demo >= 0 && flag.NArg() == 0
	if *brokers == "" || isFile == isDemo {
		flag.Usage()
		os.Exit(2)
	}
	producer, err := NewProducer(strings.Split(*brokers, ","), *predictions, *labels)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	if isFile {
		err = publishFile(producer, *topic, flag.Arg(0))
	} else {
		err = publishDemo(producer, *demo)
	}
	acknowledged, failure := producer.Close(time.Minute)
	fmt.Println("acknowledged", acknowledged)
	if err = errors.Join(err, failure); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func publishFile(producer *Producer, topic, path string) error {
	var stream io.Reader = os.Stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		stream = file
	}
	if strings.HasSuffix(path, ".gz") {
		text, err := gzip.NewReader(stream)
		if err != nil {
			return err
		}
		stream = text
	}
	return publishLines(producer, topic, stream)
}

// publishLines publishes each line as it stands; what it cannot publish, it reports.
func publishLines(producer *Producer, topic string, stream io.Reader) error {
	bad := 0
	reader := bufio.NewReader(stream) // no Scanner: that gives up at a long line
	for number := 1; ; number++ {
		line, err := reader.ReadBytes('\n')
		if err != nil && err != io.EOF {
			return err
		}
		if len(line) > 0 {
			line = bytes.TrimRight(line, "\r\n")
			if id, wrong := predictionID(line); wrong != nil {
				fmt.Fprintf(os.Stderr, "line %d: %v\n", number, wrong)
				bad++
			} else {
				producer.Publish(topic, id, line)
			}
		}
		if err == io.EOF {
			break
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d lines were not published", bad)
	}
	return nil
}

func predictionID(line []byte) (string, error) {
	var event map[string]json.RawMessage // null leaves it nil
	// The decoder would quietly replace what is not UTF-8.
	if !utf8.Valid(line) || json.Unmarshal(line, &event) != nil || event == nil {
		return "", errors.New("not a JSON object")
	}
	var id *string
	if json.Unmarshal(event["prediction_id"], &id) != nil || id == nil {
		return "", errors.New("no prediction_id")
	}
	return *id, nil
}

// publishDemo makes up a card-fraud model whose scores are honest: a payment scored 0.8 is fraud in 8 of 10 cases.
func publishDemo(producer *Producer, count int) error {
	class := func(isFraud bool) string {
		if isFraud {
			return "fraud"
		}
		return "ok"
	}
	pick := func(choices ...string) string { return choices[rand.IntN(len(choices))] }
	for range count {
		amount := math.Round(100*math.Exp(4+rand.NormFloat64())) / 100
		isNew, logit := rand.Float64() < 0.2, -3+amount/60
		if isNew {
			logit += 1.5
		}
		score := 1 / (1 + math.Exp(-logit))
		id, now := crand.Text(), time.Now().UTC()
		err := producer.PublishPrediction(Prediction{
			ID: id, Model: "card-fraud", Version: "3", Timestamp: now, Answer: class(score >= 0.5), Score: &score,
			Features: map[string]any{"amount": amount, "country": pick("NL", "DE", "FR"), "is_new": isNew},
			Tags:     map[string]string{"region": pick("eu", "us"), "channel": pick("web", "app")},
		})
		if err != nil {
			return err
		}
		// In life the truth comes from elsewhere, days later.
		truth := Label{ID: id, Model: "card-fraud", Timestamp: time.Now().UTC(), Label: class(rand.Float64() < score), PredictionTimestamp: &now}
		if err := producer.PublishLabel(truth); err != nil {
			return err
		}
	}
	return nil
}
