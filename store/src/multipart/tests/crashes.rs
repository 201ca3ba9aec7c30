//! Claims about what a process or a machine that died leaves.

use super::*;

#[test]
fn parts_and_their_upload_survive_a_restart() {
    let mut place = Place::with(Durability::Strict);
    let spec = UploadSpec {
        meta: Meta {
            user: vec![("a".to_owned(), b"1".to_vec())],
            ..Meta::default()
        },
        ..UploadSpec::default()
    };
    let (key, id) = place.upload_with("k", spec.clone());
    let parts = [body(1, 50), body(2, 50), body(3, 20)];
    let mut receipts = Vec::new();
    for (number, bytes) in (1..).zip(&parts) {
        let id = UploadId::parse(id.as_str()).expect("the id as text");
        let upload = place.bucket().upload(&key, &id).expect("the upload");
        assert_eq!(upload.spec(), &spec);
        receipts.push(send(&upload, number, bytes));
        place.restart();
    }
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    assert_eq!(upload.parts(0, 1000).expect("parts").parts, receipts);
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    place.restart();
    let (object, bytes) = read(&place.bucket(), &key);
    assert!(bytes == parts.concat());
    assert_eq!(object.info.meta.user, spec.meta.user);
}

#[test]
fn a_complete_that_died_leaves_the_upload_usable_or_the_object_published() {
    let mut place = Place::new();
    let (key, id) = place.upload("k");
    let bytes = [body(1, 20), body(2, 20)];
    let receipts = {
        let upload = place.bucket().upload(&key, &id).expect("the upload");
        [send(&upload, 1, &bytes[0]), send(&upload, 2, &bytes[1])]
    };
    // It died before the rename: the head names the file, and the file is there.
    let base = Base {
        number: 0,
        source: Source::Assembly(0),
    };
    set_state(&place, &key, &id, State::Publishing(base));
    place.restart();
    let upload = place.bucket().upload(&key, &id).expect("still an upload");
    assert_eq!(upload.parts(0, 10).expect("parts").parts, receipts);
    send(&upload, 3, &body(3, 20));
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    assert!(read(&place.bucket(), &key).1 == bytes.concat());

    // It died after the rename: the file is gone, and the object proves what became of it.
    let (key, id) = place.upload("l");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let receipts = [send(&upload, 1, &bytes[0])];
    let saved = std::fs::read(place.file_in(&id, "upload.json")).expect("the document");
    let parts = std::fs::read(place.file_in(&id, "parts")).expect("the parts");
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    std::fs::create_dir(place.file_in(&id, "")).expect("made");
    std::fs::write(place.file_in(&id, "upload.json"), saved).expect("written");
    std::fs::write(place.file_in(&id, "parts"), parts).expect("written");
    set_state_of(&place, &id, State::Publishing(base));
    place.restart();
    assert!(is_gone(place.bucket().upload(&key, &id).map(|_| ())));
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("the same answer");
    place
        .bucket()
        .delete(&key, &WriteConditions::default())
        .expect("deleted");
    assert!(is_gone(place.bucket().complete_upload(
        &key,
        &id,
        &request(&receipts)
    )));
    place
        .bucket()
        .sweep_uploads(Duration::from_secs(3600))
        .expect("swept");
    assert_eq!(place.leftovers(), 0);
}

fn set_state(place: &Place, key: &ObjectKey, id: &UploadId, state: State) {
    let upload = place.bucket().upload(key, id).expect("the upload");
    let slots = upload.folder.lock_slots().expect("locked");
    let head = slots.live_head().expect("alive");
    slots.set_head(Head { state, ..head }).expect("written");
}

fn set_state_of(place: &Place, id: &UploadId, state: State) {
    let parts = File::options()
        .write(true)
        .open(place.file_in(id, "parts"))
        .expect("the parts");
    parts
        .write_all_at(&Head { state, stride: 20 }.encode(), 0)
        .expect("written");
}

#[test]
fn parts_that_a_power_cut_may_have_eaten_are_read_again() {
    let place = Place::with(Durability::Relaxed);
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let receipts = [
        send(&upload, 1, &body(1, 20)),
        send(&upload, 2, &body(2, 20)),
    ];
    for number in [1, 2] {
        let slots = upload.folder.lock_slots().expect("locked");
        let slot = slots.get(number).expect("read").expect("stored");
        assert!(slot.unsynced);
        slots
            .put(
                number,
                &slot::Slot {
                    boot: [7; 16],
                    ..slot
                },
            )
            .expect("written");
    }
    let assembly = File::options()
        .write(true)
        .open(place.file_in(&id, "assembly"))
        .expect("the assembly");
    assembly.write_all_at(&[0; 20], 20).expect("eaten");
    let refused = place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts));
    assert!(matches!(refused, Err(StoreError::InvalidPart(2))));
    assembly.write_all_at(&body(2, 20), 20).expect("restored");
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    assert!(read(&place.bucket(), &key).1 == [body(1, 20), body(2, 20)].concat());
}

#[test]
fn a_part_sent_again_while_its_file_is_published_does_not_take_the_file_away() {
    let place = Place::new();
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    send_announced(&upload, 1, &body(1, 30), None);
    let source = upload
        .folder
        .lock_slots()
        .expect("locked")
        .get(1)
        .expect("read")
        .expect("stored")
        .source;
    assert!(matches!(source, Source::File(_)));
    set_state(
        &place,
        &key,
        &id,
        State::Publishing(Base { number: 1, source }),
    );
    let receipt = send_announced(&upload, 1, &body(2, 40), None);
    place
        .bucket()
        .upload(&key, &id)
        .expect("the file's absence would say that it was published");
    place
        .bucket()
        .complete_upload(&key, &id, &request(&[receipt]))
        .expect("completed");
    assert!(read(&place.bucket(), &key).1 == body(2, 40));
}

#[test]
fn a_complete_that_died_behind_its_publish_is_not_done_twice() {
    let mut place = Place::new();
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let receipts = [send(&upload, 1, &body(1, 20))];
    let names = ["upload.json", "parts", "assembly"];
    let saved = names.map(|name| std::fs::read(place.file_in(&id, name)).expect("a file"));
    let first = place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    // A copy was published, because the target was elsewhere: the named file is still there.
    std::fs::create_dir(place.file_in(&id, "")).expect("made");
    for (name, bytes) in names.iter().zip(saved) {
        std::fs::write(place.file_in(&id, name), bytes).expect("written");
    }
    set_state_of(
        &place,
        &id,
        State::Publishing(Base {
            number: 0,
            source: Source::Assembly(0),
        }),
    );
    place.restart();
    let again = place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("again");
    assert_eq!(again.modified, first.modified, "not published twice");
    assert_eq!(place.leftovers(), 0);
}
