//! Everything that passes a queue, as its administrator can see it.

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};

use crate::support::servers::RabbitMq;
use crate::support::services::QueueKind;
use crate::support::site::Site;

/// A queue of the broker that collects what is traced.
const QUEUE: &str = "trace";

/// A trace that has begun.
pub enum Trace {
    Amqp(Channel),
    Postgres,
}

impl Trace {
    /// Everything that is published or delivered from now on, with headers.
    pub async fn start(site: &Site) -> Self {
        match site.queue {
            QueueKind::Amqp(rabbitmq) => Self::Amqp(of_broker(site, rabbitmq).await),
            QueueKind::Postgres => {
                site.sql().await.batch_execute(OF_TABLES).await.unwrap();
                Self::Postgres
            }
        }
    }

    /// Each message as one line.
    pub async fn lines(&self, site: &Site) -> Vec<String> {
        match self {
            Self::Amqp(channel) => traced(site, channel).await,
            Self::Postgres => {
                let sql = site.sql().await;
                let lines = sql.query("SELECT line FROM public.trace", &[]).await;
                lines.unwrap().iter().map(|row| row.get(0)).collect()
            }
        }
    }
}

/// Keeps every row of the queue's tables, each as it was after every change.
const OF_TABLES: &str = r"
    CREATE TABLE public.trace (line text);
    CREATE FUNCTION public.trace() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE
        line text := to_jsonb(NEW)::text;
    BEGIN
        IF to_jsonb(NEW) ? 'body' THEN
            line := line || convert_from(NEW.body, 'UTF8');
        END IF;
        INSERT INTO public.trace VALUES (line);
        RETURN NULL;
    END $$;
    CREATE TRIGGER trace AFTER INSERT OR UPDATE ON keycard.messages
        FOR EACH ROW EXECUTE FUNCTION public.trace();
    CREATE TRIGGER trace AFTER INSERT OR UPDATE ON keycard.dead_letters
        FOR EACH ROW EXECUTE FUNCTION public.trace();
    CREATE TRIGGER trace AFTER INSERT OR UPDATE ON keycard.results
        FOR EACH ROW EXECUTE FUNCTION public.trace();
";

async fn of_broker(site: &Site, rabbitmq: &RabbitMq) -> Channel {
    rabbitmq.ctl(&["trace_on", "--vhost", &site.vhost]);
    let uri = format!(
        "amqp://{}:{}@{}:{}/{}",
        rabbitmq.user, rabbitmq.password, rabbitmq.host, rabbitmq.port, site.vhost
    );
    let connection = Connection::connect(&uri, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (declare, arguments) = (QueueDeclareOptions::default(), FieldTable::default());
    channel
        .queue_declare(QUEUE.into(), declare, arguments.clone())
        .await
        .unwrap();
    let bind = QueueBindOptions::default();
    channel
        .queue_bind(
            QUEUE.into(),
            "amq.rabbitmq.trace".into(),
            "#".into(),
            bind,
            arguments,
        )
        .await
        .unwrap();
    channel
}

/// Each traced message as one line: where it passed, its properties, its body.
async fn traced(site: &Site, channel: &Channel) -> Vec<String> {
    // Last of all, so that its arrival says that nothing is missing.
    let end = site.client("mallory").await;
    end.publish("requests", b"the end of the trace").await;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut messages = channel
        .basic_consume(QUEUE.into(), "".into(), options, FieldTable::default())
        .await
        .unwrap();
    let mut lines = Vec::new();
    loop {
        let message = messages.next().await.unwrap().unwrap();
        let body = String::from_utf8_lossy(&message.data).into_owned();
        if body == "the end of the trace" {
            return lines;
        }
        let headers = message.properties.headers().clone().unwrap_or_default();
        lines.push(format!(
            "{} {} {body}",
            message.routing_key,
            text(&AMQPValue::FieldTable(headers))
        ));
    }
}

/// All texts in a header.
fn text(value: &AMQPValue) -> String {
    if let AMQPValue::FieldTable(table) = value {
        let pairs = table.inner().iter();
        let pairs: Vec<String> = pairs
            .map(|(key, value)| format!("{key}={}", text(value)))
            .collect();
        pairs.join(" ")
    } else if let AMQPValue::FieldArray(array) = value {
        array.as_slice().iter().map(text).collect()
    } else if let AMQPValue::LongString(string) = value {
        string.to_string()
    } else {
        format!("{value:?}")
    }
}
