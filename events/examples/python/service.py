"""Always has a Postgres login of its own: asks for one, renews it at half its life, replaces it
once its end is final, gives it back. What fails ends the process; a supervisor starts it again."""
import datetime, json, os, signal, sys, time, uuid
import boto3, pika, psycopg

broker = pika.URLParameters(os.environ["BROKER_URL"])
user = broker.credentials.username
channel = pika.BlockingConnection(broker).channel()
channel.confirm_delivery()
inbox = channel.queue_declare(f"{user}.{uuid.uuid4()}", exclusive=True).method.queue
channel.queue_bind(inbox, "keycard.events", f"{user}.#")

def command(kind, **data):
    return {"specversion": "1.0", "id": str(uuid.uuid4()), "source": f"/{user}", "data": data,
            "type": f"keycard.{kind}.v1", "time": datetime.datetime.now(datetime.UTC).isoformat()}

def publish(event):  # until the broker has it; user_id, which it checks, says who asks
    exchange = "keycard.leases" if "lease_id" in event["data"] else "keycard.requests"
    channel.basic_publish(exchange, "", json.dumps(event), pika.BasicProperties(
        user_id=user, delivery_mode=2, content_type="application/cloudevents+json"))

def connect(secret):  # which the service reads with its own AWS rights
    manager = boto3.client("secretsmanager", region_name=secret["region"])
    login = json.loads(manager.get_secret_value(SecretId=secret["locator"])["SecretString"])
    tls = "verify-full" if login["ssl"] else "disable"
    return psycopg.connect(host=login["host"], port=login["port"], dbname=login["dbname"],
        user=login["username"], password=login["password"], sslmode=tls, autocommit=True)

stop, lease, database, asked, due = [], {}, None, None, time.time()
signal.signal(signal.SIGTERM, lambda *_: stop.append("SIGTERM"))
results = channel.consume(inbox, auto_ack=True, inactivity_timeout=0.1)
while not stop:
    event, before = json.loads(next(results)[2] or '{"type": null}'), lease
    if asked and event.get("correlationid") == asked["id"]:  # others are for other instances
        asked = None
        if event["type"] == "keycard.request.denied.v1":
            sys.exit("denied: {code}: {message}".format(**event["data"]))
        if event["type"] == "keycard.credential.issued.v1":
            old, database, lease = database, connect(event["data"]["secret"]), event["data"]
            if old:
                old.close()
                publish(command("lease.revoke", lease_id=before["lease_id"]))
    if event["type"] == "keycard.lease.renewed.v1" and event["subject"] == lease.get("lease_id"):
        lease = max(lease, lease | event["data"], key=lambda news: news["generation"])
    if lease is not before:
        print(lease["username"], "generation", lease["generation"], flush=True)
        due = (time.time() + datetime.datetime.fromisoformat(lease["expires_at"]).timestamp()) / 2
    if time.time() >= due:  # also when no answer came: the same id is carried out once
        if not asked and lease and lease["expires_at"] != lease["max_expires_at"]:
            asked = command("lease.renew", lease_id=lease["lease_id"])
        asked = asked or command("credential.request", role=os.environ["ROLE"])
        publish(asked)
        due = time.time() + 5
    if database:
        database.execute("INSERT INTO orders (id) VALUES (1)")  # what the service is there for
if database:
    database.close()
    publish(command("lease.revoke", lease_id=lease["lease_id"]))
channel.connection.close()
