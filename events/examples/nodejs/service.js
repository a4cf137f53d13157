// Always has a Postgres login of its own: asks for one, renews it at half its life, replaces it
// once its end is final, gives it back. What fails ends the process; a supervisor starts it again.
import { randomUUID } from "node:crypto";
import { SecretsManager } from "@aws-sdk/client-secrets-manager";
import amqp from "amqplib";
import pg from "pg";

const user = decodeURIComponent(new URL(process.env.BROKER_URL).username);
const broker = await amqp.connect(process.env.BROKER_URL);
const channel = await broker.createConfirmChannel();
const { queue: inbox } = await channel.assertQueue(`${user}.${randomUUID()}`, { exclusive: true });
await channel.bindQueue(inbox, "keycard.events", `${user}.#`);

const command = (kind, data) => ({ specversion: "1.0", id: randomUUID(), source: `/${user}`, data,
  type: `keycard.${kind}.v1`, time: new Date().toISOString() });
async function publish(event) { // until the broker has it; user_id, which it checks, says who asks
  const exchange = event.data.lease_id ? "keycard.leases" : "keycard.requests";
  channel.publish(exchange, "", Buffer.from(JSON.stringify(event)), { userId: user,
    persistent: true, contentType: "application/cloudevents+json" });
  await channel.waitForConfirms();
}

async function connect({ region, locator }) { // which the service reads with its own AWS rights
  const secret = await new SecretsManager({ region }).getSecretValue({ SecretId: locator });
  const login = JSON.parse(secret.SecretString);
  const client = new pg.Client({ ...login, database: login.dbname, user: login.username });
  return client.connect().then(() => client);
}

let stop, lease, asked, due = Date.now(), events = [];
process.on("SIGTERM", () => (stop = true));
await channel.consume(inbox, ({ content }) => events.push(JSON.parse(content)), { noAck: true });
for (; !stop; await new Promise((wake) => setTimeout(wake, 100))) {
  const before = lease, { type, correlationid, subject, data } = events.shift() ?? {};
  if (asked && correlationid === asked.id) { // others are for other instances
    asked = null;
    if (type === "keycard.request.denied.v1") throw Error(`denied: ${data.code}: ${data.message}`);
    if (type === "keycard.credential.issued.v1") {
      lease = { ...data, client: await connect(data.secret) };
      await before?.client.end();
      if (before) await publish(command("lease.revoke", { lease_id: before.lease_id }));
    }
  }
  if (type === "keycard.lease.renewed.v1" && subject === lease?.lease_id)
    if (data.generation > lease.generation) lease = { ...lease, ...data };
  if (lease !== before) console.log(lease.username, "generation", lease.generation);
  if (lease !== before) due = (Date.now() + Date.parse(lease.expires_at)) / 2;
  if (Date.now() >= due) { // also when no answer came: the same id is carried out once
    asked ??= lease && lease.expires_at !== lease.max_expires_at
      ? command("lease.renew", { lease_id: lease.lease_id })
      : command("credential.request", { role: process.env.ROLE });
    await publish(asked);
    due = Date.now() + 5000;
  }
  await lease?.client.query("INSERT INTO orders (id) VALUES (1)"); // what the service is there for
}
await lease?.client.end();
if (lease) await publish(command("lease.revoke", { lease_id: lease.lease_id }));
await broker.close();
