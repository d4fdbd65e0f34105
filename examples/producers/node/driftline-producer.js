// Publishes predictions and labels to Driftline. Copy this file into your serving code; it needs @platformatic/kafka alone.

import { Producer, ProduceAcks, compatibilityPartitioner, stringSerializers } from '@platformatic/kafka'

const BATCH_MAX = 500
// Brokers refuse a batch above a megabyte whole (`message.max.bytes`): one event that is too large must not take others with it.
const BATCH_BYTES_MAX = 1_000_000
// An outage of the brokers must not fill the service's memory: beyond this, events are refused, and their promises say so.
const WAITING_MAX = 100_000

// One for the whole process: it batches what all requests publish.
export class DriftlineProducer {
  #producer
  #predictionsTopic
  #labelsTopic
  #waiting = []
  #sending

  constructor ({ brokers, predictionsTopic = 'driftline.predictions', labelsTopic = 'driftline.labels' }) {
    this.#predictionsTopic = predictionsTopic
    this.#labelsTopic = labelsTopic
    this.#producer = new Producer({
      clientId: 'driftline-producer',
      bootstrapBrokers: brokers.split(','),
      serializers: stringSerializers,
      // All in-sync replicas have an event before it counts as delivered: the death of one broker loses nothing.
      acks: ProduceAcks.ALL,
      // A retry after a lost answer does not write an event twice, nor in another order.
      idempotent: true,
      // After so many tries an event has failed, and says so; idempotence alone would retry for ever.
      retries: 15,
      retryDelay: 1000,
      // Java's partition of a key: murmur2 without its sign. The client's own default keeps the sign bit, and so agrees with the
      // others only where the number of partitions is a power of two.
      partitioner: compatibilityPartitioner
    })
  }

  // What a model has answered: { prediction_id, model_name, model_version, prediction, score, features, tags, … }.
  // `prediction_id` is what its label will name, days later perhaps. The promise is kept once all replicas have the event.
  publishPrediction (event) {
    // toISOString gives RFC 3339 in UTC, with its Z: a time without an offset would be refused.
    const stamped = { timestamp: new Date().toISOString(), ...event }
    return this.publish(this.#predictionsTopic, stamped.prediction_id, JSON.stringify(stamped))
  }

  // The truth about a prediction: { prediction_id, model_name, label }; a label of null withdraws it. `prediction_timestamp`, where
  // it is known, saves Driftline a look-up.
  publishLabel (event) {
    const stamped = { timestamp: new Date().toISOString(), ...event }
    return this.publish(this.#labelsTopic, stamped.prediction_id, JSON.stringify(stamped))
  }

  // The key is the prediction's id: all events of one prediction keep their order.
  publish (topic, predictionId, value) {
    const bytes = Buffer.byteLength(value)
    if (bytes > BATCH_BYTES_MAX) return Promise.reject(new Error(`an event of ${bytes} bytes is too large`))
    if (this.#waiting.length >= WAITING_MAX) return Promise.reject(new Error('too many events wait for the brokers'))
    return new Promise((resolve, reject) => {
      this.#waiting.push({ message: { topic, key: predictionId, value }, bytes, resolve, reject })
      this.#sending ??= this.#sendAll()
    })
  }

  // Call it at shutdown (SIGTERM): without it the events of the last moments are lost.
  async close () {
    await this.#sending
    await this.#producer.close()
  }

  // One batch at a time: events that come meanwhile make the next one, and no retry can overtake another batch.
  async #sendAll () {
    // Whatever else this turn of the event loop publishes comes along.
    await new Promise(resolve => setImmediate(resolve))
    while (this.#waiting.length > 0) {
      const batch = this.#nextBatch()
      try {
        await this.#producer.send({ messages: batch.map(({ message }) => message) })
        for (const { resolve } of batch) resolve()
      } catch (error) {
        for (const { reject } of batch) reject(error)
      }
    }
    // In the same step as the look at an empty queue: whoever publishes next starts anew.
    this.#sending = undefined
  }

  #nextBatch () {
    let bytes = 0
    const end = this.#waiting.findIndex((event, at) => at === BATCH_MAX || (bytes += event.bytes) > BATCH_BYTES_MAX)
    return this.#waiting.splice(0, end < 0 ? this.#waiting.length : end)
  }
}
