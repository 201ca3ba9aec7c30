//! DeleteObjects: up to a thousand keys in one request, each with its own result.

use http::Method;
use twintree_store::{Bucket, WriteConditions};

use super::version::Version;
use super::{answer, delete_object};
use crate::call::{Reply, blocking_all};
use crate::conditional::parse_etags;
use crate::error::{S3Error, S3Result};
use crate::route;
use crate::xml::{self, ObjectToDelete, Writer};

/// How many threads work on one request: they wait for the same syncs, which the store shares among them.
const WORKERS: usize = 16;

/// Removes the listed keys; a key that fails fails alone.
///
/// # Errors
/// `MalformedXML`.
pub(crate) async fn delete_objects(bucket: &Bucket, document: &[u8]) -> S3Result<Reply> {
    let request = xml::delete_request(document)?;
    let mut results: Vec<Option<S3Result<Version>>> =
        request.objects.iter().map(|_| None).collect();
    for wave in waves(&request.objects) {
        let slices = wave.chunks(wave.len().div_ceil(WORKERS)).map(|slice| {
            let slice: Vec<(usize, ObjectToDelete)> = slice
                .iter()
                .map(|at| (*at, request.objects[*at].clone()))
                .collect();
            let bucket = bucket.clone();
            move || {
                Ok(slice
                    .iter()
                    .map(|(at, object)| (*at, delete_one(&bucket, object)))
                    .collect::<Vec<_>>())
            }
        });
        for done in blocking_all(slices).await {
            for (at, result) in done? {
                results[at] = Some(result);
            }
        }
    }
    let mut xml = Writer::s3("DeleteResult", 256 + 64 * results.len());
    for (object, result) in request.objects.iter().zip(results) {
        match result.expect("every key is in one wave") {
            Ok(_) if request.quiet => {}
            Ok(version) => write_deleted(&mut xml, object, version),
            Err(error) => write_failed(&mut xml, object, &error),
        }
    }
    Ok(answer::document(xml))
}

/// Orders the keys into waves of which each may run at once: children before their parents, so that `a/` finds its
/// directory as empty as it is going to be. Two mentions of one key are in one wave and either may come first.
fn waves(objects: &[ObjectToDelete]) -> Vec<Vec<usize>> {
    let depth = |at: &usize| objects[*at].key.trim_end_matches('/').matches('/').count();
    let mut order: Vec<usize> = (0..objects.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(depth(at)));
    order
        .chunk_by(|a, b| depth(a) == depth(b))
        .map(<[usize]>::to_vec)
        .collect()
}

fn delete_one(bucket: &Bucket, object: &ObjectToDelete) -> S3Result<Version> {
    let key = route::object_key(&object.key, &Method::DELETE)?;
    let version = object
        .version_id
        .as_deref()
        .map_or(Ok(Version::Current), Version::named)?;
    let conditions = WriteConditions {
        if_match: object.etag.as_deref().map(parse_etags),
        if_none_match: None,
        if_match_modified: object.modified,
        if_match_size: object.size,
    };
    delete_object::delete(bucket, &key, &conditions)?;
    Ok(version)
}

fn write_deleted(xml: &mut Writer, object: &ObjectToDelete, version: Version) {
    xml.open("Deleted");
    xml.text("Key", &object.key);
    if version == Version::Null {
        xml.plain("VersionId", "null");
    }
    xml.close("Deleted");
}

fn write_failed(xml: &mut Writer, object: &ObjectToDelete, error: &S3Error) {
    xml.open("Error");
    xml.text("Key", &object.key);
    if let Some(version) = &object.version_id {
        xml.text("VersionId", version);
    }
    xml.plain("Code", error.code().name());
    xml.text("Message", error.text());
    xml.close("Error");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_come_in_earlier_waves_than_their_parents() {
        let objects: Vec<ObjectToDelete> = ["a", "a/", "a/b/c", "a/b/", "x"]
            .iter()
            .map(|key| ObjectToDelete {
                key: (*key).to_owned(),
                ..ObjectToDelete::default()
            })
            .collect();
        assert_eq!(waves(&objects), [vec![2], vec![3], vec![0, 1, 4]]);
    }
}
