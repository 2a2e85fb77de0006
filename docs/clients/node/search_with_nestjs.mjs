// Search with NestJS: BROKER search.requests "a cat". It replies to search.requests.reply.
// In an application, give the same options to ClientsModule.register and inject the client.
import 'reflect-metadata';
import { ClientKafka } from '@nestjs/microservices';
import { firstValueFrom, timeout } from 'rxjs';

const [broker, requests, text] = process.argv.slice(2);
const client = new ClientKafka({
  client: { clientId: 'search', brokers: [broker] },
  consumer: { groupId: 'search' },
  subscribe: { fromBeginning: true }, // so that a new group doesn't miss its first reply
});

client.subscribeToResponseOf(requests); // before connecting
await client.connect();
try {
  const reply = client.send(requests, { text, limit: 5 }).pipe(timeout(20_000));
  console.log(JSON.stringify(await firstValueFrom(reply)));
} finally {
  await client.close();
}
