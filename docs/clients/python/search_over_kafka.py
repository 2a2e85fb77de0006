"""Search with nothing but a Kafka library: BROKER search.requests search.replies "a cat"."""

import json
import sys
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition

broker, requests, replies, text = sys.argv[1:]
consumer = Consumer({"bootstrap.servers": broker, "group.id": "unused"})
_, end = consumer.get_watermark_offsets(TopicPartition(replies, 0), timeout=10)
consumer.assign([TopicPartition(replies, 0, end)])  # before sending, so that no reply is missed

mine = uuid.uuid4().bytes
headers = {"kafka_replyTopic": replies, "kafka_replyPartition": b"0", "kafka_correlationId": mine}
producer = Producer({"bootstrap.servers": broker})
producer.produce(requests, json.dumps({"text": text, "limit": 5}), headers=headers)
producer.flush()
for _ in range(100):
    message = consumer.poll(0.1)
    if message and dict(message.headers() or []).get("kafka_correlationId") == mine:
        print(message.value().decode())
        sys.exit(0)
sys.exit("no reply")
