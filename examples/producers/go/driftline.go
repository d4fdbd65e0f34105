package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Producer publishes predictions and labels to Driftline. Copy this file into your serving code; it needs franz-go alone.
// One for the whole process: it is safe for concurrent use, and batches what all goroutines publish.
type Producer struct {
	client           *kgo.Client
	predictionsTopic string
	labelsTopic      string

	mutex        sync.Mutex
	acknowledged int
	failed       int
	firstFailure error
}

// Prediction is what a model has answered. ID is what its label will name, days later perhaps.
type Prediction struct {
	ID        string            `json:"prediction_id"`
	Model     string            `json:"model_name"`
	Version   string            `json:"model_version,omitempty"`
	Timestamp time.Time         `json:"timestamp"` // marshals as RFC 3339 with its offset; without one it would be refused
	Answer    any               `json:"prediction,omitempty"`
	Score     *float64          `json:"score,omitempty"` // a pointer: a score of 0 is a score
	Features  map[string]any    `json:"features,omitempty"`
	Tags      map[string]string `json:"tags,omitempty"`
}

// Label is the truth about a prediction; a nil Label withdraws it. PredictionTimestamp, where it is known, saves Driftline a look-up.
type Label struct {
	ID                  string     `json:"prediction_id"`
	Model               string     `json:"model_name"`
	Timestamp           time.Time  `json:"timestamp"`
	Label               any        `json:"label"`
	PredictionTimestamp *time.Time `json:"prediction_timestamp,omitempty"`
}

// NewProducer does not connect yet: a broker that is away shows in the first deliveries.
func NewProducer(brokers []string, predictionsTopic, labelsTopic string) (*Producer, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		// All in-sync replicas have an event before it counts as delivered: the death of one broker loses nothing.
		// With it the client is idempotent unless told otherwise: a retry after a lost answer does not write an event twice,
		// nor in another order.
		kgo.RequiredAcks(kgo.AllISRAcks()),
		// Murmur2 of the key, as in Java; nil is Kafka's own hasher.
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		// After so long an event has failed, and says so, instead of waiting for ever.
		kgo.RecordDeliveryTimeout(30*time.Second),
		// A few milliseconds of waiting make batches out of single events.
		kgo.ProducerLinger(10*time.Millisecond),
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()),
	)
	if err != nil {
		return nil, fmt.Errorf("set up the producer: %w", err)
	}
	return &Producer{client: client, predictionsTopic: predictionsTopic, labelsTopic: labelsTopic}, nil
}

// PublishPrediction hands a prediction over; its delivery is counted when it is known.
func (p *Producer) PublishPrediction(prediction Prediction) error {
	return p.publishEvent(p.predictionsTopic, prediction.ID, prediction)
}

// PublishLabel hands a label over; its delivery is counted when it is known.
func (p *Producer) PublishLabel(label Label) error {
	return p.publishEvent(p.labelsTopic, label.ID, label)
}

func (p *Producer) publishEvent(topic, id string, event any) error {
	value, err := json.Marshal(event) // refuses NaN and infinities, which JSON does not have
	if err != nil {
		return fmt.Errorf("encode the event of %s: %w", id, err)
	}
	p.Publish(topic, id, value)
	return nil
}

// Publish returns at once; it waits only while the buffer (10,000 events) is full. The key is the prediction's id: all events of
// one prediction keep their order.
func (p *Producer) Publish(topic, id string, value []byte) {
	record := &kgo.Record{Topic: topic, Key: []byte(id), Value: value}
	// Not the request's context: an event is not less true because its caller has hung up.
	p.client.Produce(context.Background(), record, p.delivered)
}

func (p *Producer) delivered(_ *kgo.Record, err error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if err == nil {
		p.acknowledged++
		return
	}
	p.failed++
	if p.firstFailure == nil {
		p.firstFailure = err
	}
}

// Close is for shutdown (SIGTERM): without it the events of the last moments are lost. It returns what the brokers have acknowledged,
// and an error if anything has failed.
func (p *Producer) Close(patience time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// What has no answer by then fails when the client closes, and is counted so.
	_ = p.client.Flush(ctx)
	p.client.Close()
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.failed > 0 {
		return p.acknowledged, fmt.Errorf("%d not acknowledged: %w", p.failed, p.firstFailure)
	}
	return p.acknowledged, nil
}
