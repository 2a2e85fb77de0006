package pixtide.example;

import java.time.Duration;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.KafkaMessageListenerContainer;
import org.springframework.kafka.requestreply.ReplyingKafkaTemplate;
import org.springframework.kafka.support.TopicPartitionOffset;
import org.springframework.kafka.support.TopicPartitionOffset.SeekPosition;
import org.springframework.kafka.support.serializer.JacksonJsonDeserializer;
import org.springframework.kafka.support.serializer.JacksonJsonSerializer;
import tools.jackson.databind.JsonNode;

/** Searches with Spring's request/reply template: BROKER search.requests search.replies "a cat". */
public final class SearchOverKafka {

    /** What is asked; leave out or add fields as docs/contracts.md has them. */
    record SearchRequest(String text, int limit) {}

    private SearchOverKafka() {}

    /** Asks once, and prints the reply. */
    public static void main(String[] arguments) throws Exception {
        String broker = arguments[0];
        String requests = arguments[1];
        String replies = arguments[2];
        var producers = new DefaultKafkaProducerFactory<String, SearchRequest>(
            Map.of(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, broker),
            new StringSerializer(),
            new JacksonJsonSerializer<SearchRequest>().noTypeInfo());
        var template = new ReplyingKafkaTemplate<>(producers, repliesFrom(broker, replies));
        template.setSharedReplyTopic(true); // others' replies come in too, and are passed over
        template.start();
        try {
            if (!template.waitForAssignment(Duration.ofSeconds(20))) {
                throw new IllegalStateException("no reply partition");
            }
            var request = new SearchRequest(arguments[3], 5);
            var reply = template.sendAndReceive(
                new ProducerRecord<>(requests, request), Duration.ofSeconds(20));
            System.out.println(reply.get(15, TimeUnit.SECONDS).value());
        } finally {
            template.stop();
            template.destroy();
            producers.destroy();
        }
    }

    /**
     * One partition, from its end: the template names topic and partition in each request, so
     * that replies come here and to no other instance.
     */
    private static KafkaMessageListenerContainer<String, JsonNode> repliesFrom(
            String broker, String topic) {
        var consumers = new DefaultKafkaConsumerFactory<>(
            Map.of(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, broker),
            new StringDeserializer(),
            new JacksonJsonDeserializer<>(JsonNode.class, false));
        var from = new ContainerProperties(new TopicPartitionOffset(topic, 0, SeekPosition.END));
        from.setGroupId("search-" + UUID.randomUUID());
        return new KafkaMessageListenerContainer<>(consumers, from);
    }
}
