use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::{Signer, SigningKey};
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use tonic::Request;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;

use super::token::MAX_TOKEN_BYTES;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn private_pem(seed: u8) -> String {
    let key = SigningKey::from_bytes(&[seed; 32]);
    key.to_pkcs8_pem(LineEnding::LF).expect("32 bytes").to_string()
}

fn signer(seed: u8) -> TokenSigner {
    TokenSigner::from_pem(&private_pem(seed)).expect("a key")
}

fn verifier(signer: &TokenSigner) -> TokenVerifier {
    TokenVerifier::from_pem(&signer.public_pem()).expect("a key")
}

fn query(id: &str) -> QueryId {
    QueryId::new(id).expect("a legal id")
}

fn pool(name: &str) -> PoolId {
    PoolId {
        namespace: "n".into(),
        name: name.into(),
    }
}

fn of_query(id: &str, epoch: u64) -> Claims {
    let folders = Folders {
        read: vec!["/data/t".into()],
        write: vec!["/out".into()],
    };
    Claims::query(query(id), CoordinatorEpoch(epoch), pool("p"), folders)
}

fn of_operator(audience: Audience, verb: Verb) -> Claims {
    Claims::operator(audience, verb, pool("p"), HOUR)
}

fn metadata(token: &Token) -> MetadataMap {
    let request = Bearer(Some(token.clone())).call(Request::new(()));
    request.expect("nothing fails").metadata().clone()
}

#[test]
fn a_token_says_what_was_signed_until_it_expires_by_a_clock_that_may_be_ahead() {
    let signer = signer(1);
    let claims = Claims {
        expires: UNIX_EPOCH + Duration::from_secs(1_000),
        ..of_query("q-1", 7)
    };
    let token = signer.sign(&claims).expect("it signs");
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let skew = CLOCK_SKEW.as_secs();
    let verifier = verifier(&signer);
    assert_eq!(verifier.verify(&token, at(999)), Ok(claims.clone()));
    assert_eq!(verifier.verify(&token, at(999 + skew)), Ok(claims));
    assert_eq!(verifier.verify(&token, at(1_000 + skew)), Err(AuthError::Expired));
    assert_eq!(format!("{token:?} {signer:?}"), "Token(..) TokenSigner(..)");
}

#[test]
fn every_claim_survives_the_signature() {
    let signer = signer(1);
    for audience in [
        Audience::Workers,
        Audience::Worker("0a1b".into()),
        Audience::Coordinator(query("q")),
    ] {
        let whole = UNIX_EPOCH + Duration::from_secs(1_000);
        for claims in [
            Claims {
                audience: audience.clone(),
                expires: whole,
                ..of_query("q", 1)
            },
            Claims {
                expires: whole,
                ..of_operator(audience, Verb::Drain)
            },
        ] {
            let token = signer.sign(&claims).expect("it signs");
            assert_eq!(verifier(&signer).verify(&token, UNIX_EPOCH), Ok(claims));
        }
    }
}

/// The example of RFC 8037, appendix A: other programs that speak JWT agree with ours.
#[test]
fn a_published_signature_is_understood() {
    let secret = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A");
    let secret: [u8; 32] = secret.expect("base64").try_into().expect("32 bytes");
    let key = SigningKey::from_bytes(&secret);
    let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(
        URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).to_bytes()),
        signature
    );
    let verifier = TokenVerifier {
        keys: vec![key.verifying_key()],
    };
    // Its signature is good, but it names no key of ours.
    let token = Token::new(&format!("{signed}.{signature}")).expect("text");
    assert_eq!(verifier.verify(&token, UNIX_EPOCH), Err(AuthError::BadSignature));
}

#[test]
fn whatever_was_changed_is_refused() {
    let signer_ = signer(1);
    let good = signer_.sign(&of_query("q-1", 1)).expect("it signs");
    let verify = |text: &str| {
        let token = Token::new(text)?;
        verifier(&signer_).verify(&token, SystemTime::now())
    };
    assert!(verify(good.as_text()).is_ok());
    let parts: Vec<&str> = good.as_text().split('.').collect();
    let [header, payload, signature] = parts[..] else {
        panic!("a JWT has three parts");
    };
    let forged = r#"{"sub":"operator","aud":"workers","verbs":["drain"],"epoch":1,"exp":99999999999}"#;
    let forged = URL_SAFE_NO_PAD.encode(forged);
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let hmac = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    for (text, error) in [
        (format!("{header}.{forged}.{signature}"), AuthError::BadSignature),
        (format!("{none}.{payload}."), AuthError::Malformed),
        (format!("{hmac}.{payload}.{signature}"), AuthError::Malformed),
        (format!("{header}.{payload}"), AuthError::Malformed),
        (
            format!("{header}.{payload}.{}", &signature[..40]),
            AuthError::Malformed,
        ),
        (String::new(), AuthError::Malformed),
        (".".repeat(9), AuthError::Malformed),
        ("a".repeat(MAX_TOKEN_BYTES + 1), AuthError::Malformed),
        ("\u{1}".into(), AuthError::Malformed),
    ] {
        assert_eq!(verify(&text), Err(error), "{text}");
    }
    assert_eq!(
        verifier(&signer(2)).verify(&good, SystemTime::now()),
        Err(AuthError::BadSignature)
    );
}

#[test]
fn the_newest_of_several_keys_signs_and_all_are_trusted() {
    let both = TokenSigner::from_pem(&format!("{}{}", private_pem(1), private_pem(2))).expect("two keys");
    let trusted = verifier(&both);
    let claims = of_query("q", 1);
    let (new, old) = (both.sign(&claims), both.before_newest().sign(&claims));
    let (new, old) = (new.expect("it signs"), old.expect("it signs"));
    for token in [&old, &new] {
        assert!(trusted.verify(token, SystemTime::now()).is_ok());
    }
    for (seed, good, bad) in [(1, &old, &new), (2, &new, &old)] {
        let one = verifier(&signer(seed));
        assert!(one.verify(good, SystemTime::now()).is_ok());
        assert_eq!(one.verify(bad, SystemTime::now()), Err(AuthError::BadSignature));
    }
    assert!(both.has_several() && !signer(1).has_several());
}

#[test]
fn a_query_cannot_pass_as_the_operator() {
    let claims = of_query("operator", 1);
    assert_eq!(signer(1).sign(&claims).err(), Some(AuthError::ReservedSubject));
}

#[test]
fn keys_that_are_none_are_refused_with_a_reason() {
    let public = signer(1).public_pem();
    for text in ["", "no key", &public] {
        assert!(TokenSigner::from_pem(text).is_err(), "{text}");
    }
    for text in ["", "  \n", "no key", &public[..60]] {
        assert!(TokenVerifier::from_pem(text).is_err(), "{text}");
    }
    let error = TrustedKeys::open(Path::new("/no/such/key.pem")).expect_err("there is none");
    assert!(error.to_string().contains("/no/such/key.pem"), "{error}");
}

/// The authorizers of a worker and of a coordinator of pool `p`.
fn authorizers(signer: &TokenSigner) -> (Authorizer, Authorizer) {
    let keys = TrustedKeys::from(verifier(signer));
    (
        Authorizer::for_worker(keys.clone(), pool("p"), "w-1"),
        Authorizer::for_coordinator(keys, pool("p"), query("q")),
    )
}

fn authorize(authorizer: &Authorizer, claims: &Claims, verb: Verb) -> Result<(), AuthError> {
    let token = signer(1).sign(claims).expect("it signs");
    authorizer.authorize(&metadata(&token), verb).map(|_| ())
}

fn to_worker(id: &str, verb: Verb) -> Claims {
    of_operator(Audience::Worker(id.into()), verb)
}

fn to_query(id: &str, verb: Verb) -> Claims {
    of_operator(Audience::Coordinator(query(id)), verb)
}

#[test]
fn a_guard_lets_in_who_may() {
    let (worker, coordinator) = authorizers(&signer(1));
    for (authorizer, claims, verb) in [
        (&worker, of_query("q", 1), Verb::OpenSession),
        (&worker, to_worker("w-1", Verb::Drain), Verb::Drain),
        (&coordinator, to_query("q", Verb::Cancel), Verb::Cancel),
    ] {
        assert_eq!(authorize(authorizer, &claims, verb), Ok(()));
    }
    let none = MetadataMap::new();
    assert_eq!(worker.authorize(&none, Verb::Drain), Err(AuthError::Missing));
    assert_eq!(Authorizer::default().authorize(&none, Verb::Drain), Ok(None));
}

#[test]
fn a_token_opens_one_kind_of_call_at_one_receiver() {
    let (worker, coordinator) = authorizers(&signer(1));
    let another = Audience::Worker("w-2".into());
    let (q, other) = (
        Audience::Coordinator(query("q")),
        Audience::Coordinator(query("other")),
    );
    for (authorizer, claims, verb, error) in [
        (
            &worker,
            to_worker("w-2", Verb::Drain),
            Verb::Drain,
            AuthError::WrongAudience(another),
        ),
        (
            &worker,
            to_query("q", Verb::Drain),
            Verb::Drain,
            AuthError::WrongAudience(q),
        ),
        (
            &worker,
            to_worker("w-1", Verb::ReadStatus),
            Verb::Drain,
            AuthError::WrongVerb(Verb::Drain),
        ),
        (
            &worker,
            of_query("q", 1),
            Verb::Drain,
            AuthError::WrongVerb(Verb::Drain),
        ),
        (
            &coordinator,
            to_query("other", Verb::Cancel),
            Verb::Cancel,
            AuthError::WrongAudience(other),
        ),
        (
            &coordinator,
            to_query("q", Verb::ReadStatus),
            Verb::ReadResult,
            AuthError::WrongVerb(Verb::ReadResult),
        ),
        (
            &coordinator,
            of_query("q", 1),
            Verb::ReadStatus,
            AuthError::WrongAudience(Audience::Workers),
        ),
    ] {
        assert_eq!(authorize(authorizer, &claims, verb), Err(error), "{claims:?}");
    }
}

#[test]
fn a_token_of_another_pool_or_namespace_is_refused() {
    let (worker, _) = authorizers(&signer(1));
    let namespace = PoolId {
        namespace: "m".into(),
        ..pool("p")
    };
    for elsewhere in [pool("other"), namespace, PoolId::default()] {
        let claims = Claims {
            pool: elsewhere.clone(),
            ..of_query("q", 1)
        };
        let error = AuthError::WrongPool {
            token: elsewhere,
            here: pool("p"),
        };
        assert_eq!(authorize(&worker, &claims, Verb::OpenSession), Err(error));
    }
}

#[test]
fn a_session_is_of_one_query_and_epoch() {
    let claims = of_query("q", 2);
    assert_eq!(claims.opens_epoch(&query("q"), CoordinatorEpoch(2)), Ok(()));
    assert_eq!(
        claims.opens_epoch(&query("other"), CoordinatorEpoch(2)),
        Err(AuthError::WrongSubject(Subject::Query(query("q"))))
    );
    assert_eq!(
        claims.opens_epoch(&query("q"), CoordinatorEpoch(3)),
        Err(AuthError::WrongEpoch { token: 2, call: 3 })
    );
}

#[test]
fn a_renewal_prolongs_its_own_token_and_opens_nothing() {
    let signer = signer(1);
    let authorizer = Authorizer::for_worker(TrustedKeys::from(verifier(&signer)), pool("p"), "w");
    let sign = |claims: &Claims| signer.sign(claims).expect("it signs");
    let over = SystemTime::now() - HOUR;
    let expired = sign(&Claims {
        expires: over,
        ..of_query("q", 1)
    });
    let renewal = |id: &str, epoch| Claims::renewal(query(id), CoordinatorEpoch(epoch), pool("p"));
    let admit = |token: &Token, renewal: Option<&Claims>| {
        let mut metadata = metadata(token);
        if let Some(renewal) = renewal {
            sign(renewal).attach_renewal(&mut metadata);
        }
        authorizer.authorize(&metadata, Verb::OpenSession)
    };
    assert_eq!(admit(&expired, None), Err(AuthError::Expired));
    let claims = admit(&expired, Some(&renewal("q", 1)));
    let claims = claims.expect("it is renewed").expect("it is checked");
    assert!(claims.expires > SystemTime::now() && claims.folders == of_query("q", 1).folders);
    for (renewal, error) in [
        (
            renewal("other", 1),
            AuthError::WrongSubject(Subject::Query(query("other"))),
        ),
        (renewal("q", 2), AuthError::WrongEpoch { token: 2, call: 1 }),
        (
            Claims {
                expires: over,
                ..renewal("q", 1)
            },
            AuthError::Expired,
        ),
        (of_query("q", 1), AuthError::WrongVerb(Verb::Extend)),
    ] {
        assert_eq!(admit(&expired, Some(&renewal)), Err(error));
    }
    let alone = sign(&renewal("q", 1));
    assert_eq!(
        admit(&alone, Some(&renewal("q", 1))),
        Err(AuthError::WrongVerb(Verb::OpenSession))
    );
}

#[test]
fn keys_come_and_go_with_the_file_while_the_process_runs() {
    let folder = std::env::temp_dir().join(format!("sluice-keys-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
    let file = folder.join("public.pem");
    let (old, new) = (signer(1), signer(2));
    std::fs::write(&file, old.public_pem()).expect("it can be written");
    let keys = TrustedKeys::open(&file).expect("a key");
    let verify = |signer: &TokenSigner| {
        let token = signer.sign(&of_query("q", 1)).expect("it signs");
        keys.verify_signature(&token).map(|_| ())
    };
    assert_eq!(verify(&new), Err(AuthError::BadSignature));
    std::fs::write(&file, old.public_pem() + &new.public_pem()).expect("it can be written");
    keys.age();
    assert_eq!((verify(&new), verify(&old)), (Ok(()), Ok(())));
    std::fs::write(&file, "half a file").expect("it can be written");
    keys.age();
    assert_eq!((verify(&new), verify(&old)), (Ok(()), Ok(())));
    std::fs::write(&file, new.public_pem()).expect("it can be written");
    keys.age();
    assert_eq!(
        (verify(&new), verify(&old)),
        (Ok(()), Err(AuthError::BadSignature))
    );
    std::fs::remove_dir_all(&folder).expect("it can be removed");
}

#[test]
fn a_fetch_key_opens_for_itself_alone_and_travels_unseen() {
    let (own, other) = (FetchKey::new([1; 32]), FetchKey::new([2; 32]));
    assert!(own.opens(Some(&own.clone())));
    assert!(!own.opens(Some(&other)) && !own.opens(None));
    let mut metadata = MetadataMap::new();
    assert_eq!(FetchKey::of(&metadata), None);
    own.attach(&mut metadata);
    assert_eq!(FetchKey::of(&metadata), Some(own.clone()));
    assert_eq!(format!("{own:?}"), "FetchKey(..)");
}

#[test]
fn a_generated_key_signs_for_itself_alone() {
    let [one, other] = [(); 2].map(|()| TokenSigner::generate().expect("the machine has randomness"));
    assert_ne!(one.public_pem(), other.public_pem());
    let query = QueryId::new("q").expect("a legal id");
    let claims = Claims::query(query, CoordinatorEpoch(1), PoolId::default(), Folders::default());
    let token = one.sign(&claims).expect("it signs");
    let verify = |signer: &TokenSigner| {
        let verifier = TokenVerifier::from_pem(&signer.public_pem()).expect("a key");
        verifier
            .verify(&token, SystemTime::now())
            .map(|claims| claims.subject)
    };
    assert_eq!(verify(&one), Ok(claims.subject));
    assert_eq!(verify(&other), Err(AuthError::BadSignature));
}
