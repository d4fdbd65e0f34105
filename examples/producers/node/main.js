// Publishes events from JSON lines, or a demo's: see README.md.

import { randomUUID } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { parseArgs } from 'node:util'
import { createGunzip } from 'node:zlib'
import { DriftlineProducer } from './driftline-producer.js'

const USAGE = `usage: main.js --brokers HOST:PORT --topic NAME FILE      JSON lines, perhaps .gz; - is stdin
       main.js --brokers HOST:PORT --demo N [--predictions-topic NAME] [--labels-topic NAME]`
// So many events are under way before the file is read on.
const UNDER_WAY_MAX = 10_000
const NEWLINE = 10

const deliveries = { acknowledged: 0, failed: 0, firstFailure: undefined }

function parse () {
  const text = { type: 'string' }
  const options = { brokers: text, topic: text, demo: text, 'predictions-topic': text, 'labels-topic': text }
  try {
    const { values, positionals } = parseArgs({ options, allowPositionals: true })
    const isFile = values.topic !== undefined && positionals.length === 1
    const isDemo = /^\d+$/.test(values.demo ?? '') && positionals.length === 0
    if (values.brokers && isFile !== isDemo) return { ...values, file: positionals[0] }
  } catch {}
  console.error(USAGE)
  process.exit(2)
}

function count (delivery) {
  return delivery.then(
    () => { deliveries.acknowledged++ },
    error => {
      deliveries.failed++
      // The client wraps the broker's answer in its own errors: the innermost one tells what happened.
      while (error.errors?.length || error.cause) error = error.errors?.at(-1) ?? error.cause
      deliveries.firstFailure ??= error.message
    }
  )
}

// Lines as bytes: readline would also split at U+2028, which JSON strings may contain, and replace what is not UTF-8.
async function * lines (stream) {
  let rest = Buffer.alloc(0)
  for await (const chunk of stream) {
    rest = Buffer.concat([rest, chunk])
    let start = 0
    for (let end; (end = rest.indexOf(NEWLINE, start)) >= 0; start = end + 1) yield rest.subarray(start, end)
    rest = rest.subarray(start)
  }
  if (rest.length > 0) yield rest
}

function open (file) {
  const stream = file === '-' ? process.stdin : createReadStream(file)
  if (!file.endsWith('.gz')) return stream
  const text = createGunzip()
  stream.on('error', error => text.destroy(error))
  return stream.pipe(text)
}

// Publishes each line as it stands. Returns how many could not be.
async function publishLines (producer, topic, file) {
  const utf8 = new TextDecoder('utf-8', { fatal: true })
  let bad = 0
  let number = 0
  let underWay = []
  for await (const line of lines(open(file))) {
    number++
    let text, event
    try {
      text = utf8.decode(line)
      event = JSON.parse(text)
    } catch {}
    const isObject = typeof event === 'object' && event !== null && !Array.isArray(event)
    if (!isObject || typeof event.prediction_id !== 'string') {
      console.error(`line ${number}: ${isObject ? 'no prediction_id' : 'not a JSON object'}`)
      bad++
      continue
    }
    underWay.push(count(producer.publish(topic, event.prediction_id, text.trimEnd())))
    if (underWay.length >= UNDER_WAY_MAX) {
      await Promise.all(underWay)
      underWay = []
    }
  }
  await Promise.all(underWay)
  return bad
}

const pick = choices => choices[Math.floor(Math.random() * choices.length)]

// A card-fraud model whose scores are honest: a payment scored 0.8 is fraud in 8 of 10 cases.
async function publishDemo (producer, events) {
  for (let serial = 0; serial < events; serial++) {
    const amount = Math.round(100 * Math.exp(4 + 2 * (Math.random() + Math.random() - 1))) / 100
    const features = { amount, country: pick(['NL', 'DE', 'FR']), is_new: Math.random() < 0.2 }
    const score = 1 / (1 + Math.exp(3 - amount / 60 - (features.is_new ? 1.5 : 0)))
    const about = { prediction_id: randomUUID(), model_name: 'card-fraud' }
    const timestamp = new Date().toISOString()
    const tags = { region: pick(['eu', 'us']), channel: pick(['web', 'app']) }
    const prediction = score >= 0.5 ? 'fraud' : 'ok'
    const answer = count(producer.publishPrediction({ ...about, model_version: '3', timestamp, prediction, score, features, tags }))
    // In life the truth comes from elsewhere, days later.
    const label = Math.random() < score ? 'fraud' : 'ok'
    const truth = count(producer.publishLabel({ ...about, label, prediction_timestamp: timestamp }))
    if (serial % 1000 === 999) await Promise.all([answer, truth])
  }
}

const options = parse()
const producer = new DriftlineProducer({
  brokers: options.brokers,
  predictionsTopic: options['predictions-topic'],
  labelsTopic: options['labels-topic']
})
let bad = 0
try {
  if (options.demo === undefined) bad = await publishLines(producer, options.topic, options.file)
  else await publishDemo(producer, Number(options.demo))
} catch (error) {
  console.error(`error: ${error.message}`)
  bad++
}
await producer.close()
console.log(`acknowledged ${deliveries.acknowledged}`)
if (deliveries.failed > 0) console.error(`error: ${deliveries.failed} not acknowledged: ${deliveries.firstFailure}`)
process.exitCode = bad + deliveries.failed > 0 ? 1 : 0
