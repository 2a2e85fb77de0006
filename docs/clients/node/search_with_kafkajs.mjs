// Search with KafkaJS: BROKER search.requests search.replies "a cat"
import { randomUUID } from 'node:crypto';
import { Kafka, Partitioners, logLevel } from 'kafkajs';

const [broker, requests, replies, text] = process.argv.slice(2);
const kafka = new Kafka({ clientId: 'search', brokers: [broker], logLevel: logLevel.ERROR });

const waiting = new Map(); // correlation id -> what to call with the reply

/** Hear the replies that come from now on; a group of its own sees those of all partitions. */
async function listen() {
  const admin = kafka.admin();
  await admin.connect();
  const ends = await admin.fetchTopicOffsets(replies); // before anything is sent
  await admin.disconnect();
  const consumer = kafka.consumer({ groupId: `search-${randomUUID()}` });
  await consumer.connect();
  await consumer.subscribe({ topic: replies });
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ message }) => {
      const correlationId = message.headers.kafka_correlationId?.toString();
      waiting.get(correlationId)?.(JSON.parse(message.value.toString()));
      waiting.delete(correlationId); // a reply may come twice
    },
  });
  for (const { partition, high } of ends) consumer.seek({ topic: replies, partition, offset: high });
  return consumer;
}

async function search(producer, request, timeoutMs = 20_000) {
  const correlationId = randomUUID();
  const reply = new Promise((resolve, reject) => {
    waiting.set(correlationId, resolve);
    setTimeout(() => reject(new Error('no reply')), timeoutMs).unref();
  });
  await producer.send({
    topic: requests,
    messages: [{
      value: JSON.stringify(request),
      headers: {
        kafka_replyTopic: replies,
        kafka_correlationId: correlationId,
        'pixtide-deadline': String(Date.now() + timeoutMs),
      },
    }],
  });
  return reply;
}

const consumer = await listen();
const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
await producer.connect();
try {
  console.log(JSON.stringify(await search(producer, { text, limit: 5 })));
} finally {
  await producer.disconnect();
  await consumer.disconnect();
}
