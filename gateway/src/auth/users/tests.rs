use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::*;
use crate::auth::{Scheme, password_line_by, verifier::ITERATIONS_INLINE_MAX};

fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

#[test]
fn a_line_made_here_admits_its_password_only() {
    for scheme in [Scheme::Pbkdf2, Scheme::Argon2id, Scheme::Scram] {
        let line = password_line_by(scheme, "ada", b"correct horse").unwrap();
        let users = Users::parse(&format!("# staff\n\n{line}\n")).unwrap();
        assert!(users.check("ada", b"correct horse"), "{scheme:?}");
        assert!(!users.check("ada", b"correct horsE"));
        assert!(!users.check("ada", b""));
        assert!(!users.check("bob", b"correct horse"));
        assert!(!format!("{users:?}").contains('$'), "Debug shows no hash");
        assert_ne!(users.fingerprint("ada"), None);
        let other = password_line_by(scheme, "ada", b"correct horse").unwrap();
        assert_ne!(users.fingerprint("ada"), Users::parse(&other).unwrap().fingerprint("ada"));
    }
}

#[test]
fn a_line_of_another_program_is_read() {
    // A vector of the reference implementation (phc-winner-argon2, src/test.c).
    let argon2 = "a:$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    let users = Users::parse(argon2).unwrap();
    assert!(users.check("a", b"password") && !users.check("a", b"Password"));
    // RFC 7677's user, as PostgreSQL would keep it.
    let verifier = scram::Verifier::new(
        b"pencil",
        BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(),
        scram::ITERATIONS,
    );
    let (stored, server) = (BASE64.encode(verifier.stored_key), BASE64.encode(verifier.server_key));
    let line = format!("user:SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${stored}:{server}");
    assert!(Users::parse(&line).unwrap().check("user", b"pencil"));
}

#[test]
fn names_that_would_break_the_file_are_refused() {
    for name in ["", "a:b", "a\nb", "#a"] {
        assert!(password_line_by(Scheme::Pbkdf2, name, b"x").is_err(), "{name:?}");
    }
    assert!(password_line_by(Scheme::Pbkdf2, "a", b"").is_err());
    assert!(password_line_by(Scheme::Scram, "a", "ü".as_bytes()).is_err());
    assert!(password_line_by(Scheme::Argon2id, "a", "ü".as_bytes()).is_ok());
}

#[test]
fn a_malformed_line_is_named_without_its_secret() {
    let hash = BASE64.encode([1; 64]);
    let check = |line: &str, fault: &str| {
        let error = Users::parse(&format!("# first\n{line}")).unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.fault.contains(fault), "{line} -> {error}");
    };
    check("no colon", "no ':'");
    check(":$7$1$AAAA$AAAA", "no user name");
    check("a:$6$AAAA$AAAA", "$7$");
    check("a:$7$1$AAAA", "three fields");
    check(&format!("a:$7$0$AAAA${hash}"), "iteration count");
    check(&format!("a:$7$1000001$AAAA${hash}"), "iteration count");
    check(&format!("a:$7$1$${hash}"), "salt");
    check("a:$7$1$AAAA$AAAA", "hash");
    check("a:$argon2id$v=16$m=8,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA", "v=19");
    check("a:$argon2id$v=19$m=9999999,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA", "parameters");
    check("a:$argon2id$v=19$m=8,t=1,p=1,x=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA", "parameters");
    check("a:$argon2id$v=19$m=8,t=1,p=1$c29t$AAAAAAAAAAAAAAAAAAAAAA", "salt");
    check("a:$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAA", "hash");
    check("a:SCRAM-SHA-256$4096:AAAA", "fields");
    check("a:SCRAM-SHA-256$4095:AAAA$AAAA:AAAA", "4096");
    check("a:SCRAM-SHA-256$4096:AAAA$AAAA:AAAA", "32 bytes");
    let line = format!("a:$7$1$AAAA${hash}");
    assert_eq!(Users::parse(&format!("{line}\n{line}")).unwrap_err().line, 2, "a double name");
}

#[tokio::test]
async fn a_long_check_gives_the_same_answer_off_the_reactor() {
    let mut hash = [0; 64];
    let iterations = std::num::NonZeroU32::new(ITERATIONS_INLINE_MAX + 1).unwrap();
    let algorithm = aws_lc_rs::pbkdf2::PBKDF2_HMAC_SHA512;
    aws_lc_rs::pbkdf2::derive(algorithm, iterations, b"salt", b"pw", &mut hash);
    let line = format!("a:$7${iterations}${}${}", BASE64.encode(b"salt"), BASE64.encode(hash));
    let users = Users::parse(&line).unwrap();
    let places = places();
    for (user, password, expected) in
        [("a", b"pw", Checked::Right), ("a", b"pW", Checked::Wrong), ("b", b"pw", Checked::Wrong)]
    {
        assert_eq!(users.verify(user, password, &places, || panic!("there is a place")).await, expected);
    }
    assert_eq!(places.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn costly_checks_wait_for_a_place_and_not_for_ever() {
    let line = password_line_by(Scheme::Argon2id, "a", b"pw").unwrap();
    let users = Users::parse(&line).unwrap();
    let places = places();
    let _others = Arc::clone(&places).acquire_owned().await.unwrap();
    let mut waited = false;
    assert_eq!(users.verify("a", b"pw", &places, || waited = true).await, Checked::NoTurn);
    assert!(waited);
}

#[test]
fn nobody_can_tell_a_user_who_is_not_there() {
    let lines: Vec<_> =
        ["a", "b"].map(|user| password_line_by(Scheme::Scram, user, b"pw").unwrap()).into_iter().collect();
    let file = format!("{}\n{}\n", lines.join("\n"), password_line_by(Scheme::Pbkdf2, "p", b"pw").unwrap());
    let users = Users::parse(&file).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let decoys = DecoyKey::new(Some(folder.path()));
    let salt = |user: &str, decoys: &DecoyKey| users.scram(user, decoys).unwrap().0.salt;
    assert!(users.scram("a", &decoys).unwrap().1);
    for user in ["x", "y", "p", ""] {
        let (verifier, is_known) = users.scram(user, &decoys).unwrap();
        assert!(!is_known);
        assert_eq!((verifier.salt.len(), verifier.iterations.get()), (16, 4096));
        assert_eq!(salt(user, &decoys), salt(user, &DecoyKey::new(Some(folder.path()))), "after a restart");
    }
    assert_ne!(salt("x", &decoys), salt("y", &decoys));
    assert_ne!(salt("x", &decoys), salt("x", &DecoyKey::new(None)));
    assert!(Users::default().scram("a", &decoys).is_none());
}
