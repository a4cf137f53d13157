//! Looking at secrets without reading them.

use std::collections::BTreeMap;

use aws_sdk_secretsmanager::error::ProvideErrorMetadata as _;
use aws_sdk_secretsmanager::primitives::DateTime;
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, Tag};
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;

use super::{AwsSecretsManager, failure};
use crate::store::{Described, Listed, StoreError};

/// `DescribeSecret` has a quota of 40,000 a second and `ListSecrets` one of 100, of 100 secrets each:
/// looking around leaves nearly all of them to others.
pub(super) const DESCRIPTIONS_PER_SECOND: u32 = 200;
pub(super) const LISTINGS_PER_SECOND: u32 = 10;

impl AwsSecretsManager {
    /// What is known of a secret.
    pub(super) async fn look_at(&self, locator: &str) -> Result<Option<Described>, StoreError> {
        self.describing.turn().await;
        let described = self.client.describe_secret().secret_id(locator).send();
        match described.await {
            // While AWS deletes it in the background nobody can read it.
            Ok(found) if found.deleted_date.is_some() => Ok(None),
            Ok(found) => Ok(Some(Described {
                changed_at: found
                    .last_changed_date
                    .or(found.created_date)
                    .and_then(timestamp),
                tags: tags(found.tags),
            })),
            Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(None),
            Err(error) => Err(failure("describe", "DescribeSecret", locator, &error, None)),
        }
    }

    /// Every secret whose name begins with `below`, page by page as they are taken. AWS may be five
    /// minutes behind, and lists nothing that is being deleted.
    pub(super) fn look_below(&self, below: String) -> BoxStream<'_, Result<Listed, StoreError>> {
        // `None` after the last page; a page is named by the token that leads to it.
        let first: Option<Option<String>> = Some(None);
        let pages = stream::try_unfold((first, below), move |(page, below)| async move {
            let Some(token) = page else {
                return Ok(None);
            };
            let (listed, next) = self.page(&below, token).await?;
            let listed = stream::iter(listed).map(Ok);
            Ok(Some((listed, (next.map(Some), below))))
        });
        pages.try_flatten().boxed()
    }

    /// One page of secrets whose names begin with `below`, and the token of the next.
    async fn page(
        &self,
        below: &str,
        token: Option<String>,
    ) -> Result<(Vec<Listed>, Option<String>), StoreError> {
        self.listing.turn().await;
        let named = Filter::builder()
            .key(FilterNameStringType::Name)
            .values(below)
            .build();
        let page = self
            .client
            .list_secrets()
            .filters(named)
            .set_next_token(token)
            .send()
            .await
            .map_err(|error| failure("list", "ListSecrets", below, &error, None))?;
        let listed = page
            .secret_list
            .unwrap_or_default()
            .into_iter()
            .filter_map(|secret| {
                Some(Listed {
                    // The filter is AWS's and its emulators' own idea of a beginning.
                    locator: secret.name.filter(|name| name.starts_with(below))?,
                    tags: tags(secret.tags),
                })
            })
            .collect();
        Ok((listed, page.next_token))
    }
}

fn tags(tags: Option<Vec<Tag>>) -> BTreeMap<String, String> {
    tags.unwrap_or_default()
        .into_iter()
        .filter_map(|tag| Some((tag.key?, tag.value.unwrap_or_default())))
        .collect()
}

fn timestamp(time: DateTime) -> Option<Timestamp> {
    Timestamp::from_second(time.secs()).ok()
}
