#!/usr/bin/env bash
# Search with nothing but kcat: BROKER search.requests search.replies '{"text": "a cat"}'
set -euo pipefail
broker=$1 requests=$2 replies=$3 request=$4

correlation_id=$(cat /proc/sys/kernel/random/uuid)
# Where the reply partition ends, before anything is sent, so that no reply is missed.
end=$(kcat -Q -b "$broker" -t "$replies:0:-1" | sed 's/.*offset //')

printf '%s' "$request" | kcat -P -b "$broker" -t "$requests" \
    -H "kafka_replyTopic=$replies" -H kafka_replyPartition=0 \
    -H "kafka_correlationId=$correlation_id"

# Headers, a tab, the value; ours is the first with our correlation id.
exec 3< <(exec timeout 20 kcat -C -q -u -b "$broker" -t "$replies" -p 0 -o "$end" -f '%h\t%s\n')
listener=$!
while IFS=$'\t' read -r headers value <&3; do
    if [[ $headers == *"$correlation_id"* ]]; then
        kill "$listener"
        printf '%s\n' "$value"
        exit
    fi
done
echo "no reply" >&2
exit 1
