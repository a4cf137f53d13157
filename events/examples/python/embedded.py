"""With the embedded default: asks keycard for a Postgres login through Postgres itself, uses it and
gives it back. The file that holds the credential is read with the service's own rights."""
import datetime, json, os, pathlib, sys, uuid
import psycopg

def command(kind, **data):
    return {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/embedded", "data": data,
            "type": f"keycard.{kind}.v1", "time": datetime.datetime.now(datetime.UTC).isoformat()}

with psycopg.connect(os.environ["QUEUE_URL"], autocommit=True) as queue:  # who connects is who asks
    request, answer = command("credential.request", role=os.environ["ROLE"]), {}
    queue.execute("LISTEN keycard_results")
    send = "SELECT keycard.send(%s, %s::text)"
    position, = queue.execute(send, ["requests", json.dumps(request)]).fetchone()
    while answer.get("correlationid") != request["id"]:
        list(queue.notifies(timeout=1, stop_after=1))  # until there is news, at most a second
        for position, text, _ in queue.execute("SELECT * FROM keycard.results(%s)", [position]):
            answer = json.loads(text)
            if answer.get("correlationid") == request["id"]:
                break
    lease = answer["data"]
    if "code" in lease:
        sys.exit(f"denied: {lease['code']}: {lease['message']}")
    login = json.loads(pathlib.Path(lease["secret"]["locator"]).read_text())
    with psycopg.connect(host=login["host"], port=login["port"], dbname=login["dbname"],
            user=login["username"], password=login["password"],
            sslmode="verify-full" if login["ssl"] else "disable") as database:
        print(*database.execute("SELECT current_user, count(*) FROM orders").fetchone())
    queue.execute(send, ["leases", json.dumps(command("lease.revoke", lease_id=lease["lease_id"]))])
