use ed25519_dalek::pkcs8::EncodePrivateKey;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn signer(seed: u8) -> TokenSigner {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let pem = key.to_pkcs8_pem(LineEnding::LF).expect("32 bytes");
    TokenSigner::from_pem(&pem).expect("a key")
}

fn verifier(signer: &TokenSigner) -> TokenVerifier {
    TokenVerifier::from_pem(&signer.public_pem()).expect("a key")
}

fn query(id: &str) -> QueryId {
    QueryId::new(id).expect("a legal id")
}

fn metadata(token: &Token) -> MetadataMap {
    let request = Bearer(Some(token.clone())).call(Request::new(()));
    request.expect("nothing fails").metadata().clone()
}

#[test]
fn a_token_says_what_was_signed_until_it_expires() {
    let signer = signer(1);
    let claims = Claims {
        subject: Subject::Query(query("q-1")),
        epoch: CoordinatorEpoch(7),
        expires: UNIX_EPOCH + Duration::from_secs(1_000),
    };
    let token = signer.sign(&claims).expect("it signs");
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(verifier(&signer).verify(&token, at(999)), Ok(claims));
    assert_eq!(
        verifier(&signer).verify(&token, at(1_000)),
        Err(AuthError::Expired)
    );
    assert_eq!(format!("{token:?} {signer:?}"), "Token(..) TokenSigner(..)");
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
    // Its signature is good, its payload is no claims of ours.
    let token = Token::new(&format!("{signed}.{signature}")).expect("text");
    assert_eq!(verifier.verify(&token, UNIX_EPOCH), Err(AuthError::Malformed));
}

#[test]
fn whatever_was_changed_is_refused() {
    let signer_ = signer(1);
    let good = signer_
        .sign(&Claims::query(query("q-1"), CoordinatorEpoch(1), HOUR))
        .expect("it signs");
    let verify = |text: &str| {
        let token = Token::new(text)?;
        verifier(&signer_).verify(&token, SystemTime::now())
    };
    assert!(verify(good.as_text()).is_ok());
    let parts: Vec<&str> = good.as_text().split('.').collect();
    let [header, payload, signature] = parts[..] else {
        panic!("a JWT has three parts");
    };
    let forged = URL_SAFE_NO_PAD.encode(r#"{"sub":"operator","epoch":1,"exp":99999999999}"#);
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
fn several_keys_are_trusted_while_they_change() {
    let (old, new) = (signer(1), signer(2));
    let both =
        TokenVerifier::from_pem(&format!("{}\n{}", old.public_pem(), new.public_pem())).expect("two keys");
    for signer in [&old, &new] {
        let token = signer.sign(&Claims::operator(HOUR)).expect("it signs");
        assert!(both.verify(&token, SystemTime::now()).is_ok());
    }
}

#[test]
fn a_query_cannot_pass_as_the_operator() {
    let claims = Claims::query(query("operator"), CoordinatorEpoch(1), HOUR);
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
    let error = TokenVerifier::from_file(Path::new("/no/such/key.pem")).expect_err("there is none");
    assert!(error.to_string().contains("/no/such/key.pem"), "{error}");
}

#[test]
fn a_guard_lets_in_who_may() {
    let signer = signer(1);
    let guard = Guard::new(verifier(&signer));
    let own = metadata(
        &signer
            .sign(&Claims::query(query("q"), CoordinatorEpoch(2), HOUR))
            .expect("it signs"),
    );
    let operator = metadata(&signer.sign(&Claims::operator(HOUR)).expect("it signs"));
    let (q, other) = (query("q"), query("other"));
    assert_eq!(guard.admit_operator(&operator), Ok(()));
    assert_eq!(
        guard.admit_operator(&own),
        Err(AuthError::WrongSubject(Subject::Query(q.clone())))
    );
    assert_eq!(guard.admit_query_or_operator(&operator, &q), Ok(()));
    assert_eq!(guard.admit_query_or_operator(&own, &q), Ok(()));
    assert!(guard.admit_query_or_operator(&own, &other).is_err());
    let fetch = |metadata: &MetadataMap, query: &QueryId, epoch, latest: u64| {
        let latest = Some(CoordinatorEpoch(latest));
        guard
            .admit_fetch(metadata, (query, CoordinatorEpoch(epoch)), latest)
            .map_err(|status| status.code())
    };
    assert_eq!(fetch(&own, &q, 2, 2), Ok(()));
    assert_eq!(fetch(&own, &other, 2, 2), Err(Code::PermissionDenied));
    assert_eq!(
        fetch(&own, &q, 3, 3),
        Err(Code::PermissionDenied),
        "a forged epoch"
    );
    assert_eq!(fetch(&own, &q, 2, 3), Err(Code::PermissionDenied), "superseded");
    assert_eq!(fetch(&operator, &q, 2, 2), Err(Code::PermissionDenied));
    assert_eq!(fetch(&MetadataMap::new(), &q, 2, 2), Err(Code::Unauthenticated));
    let open = Guard::default();
    assert_eq!(open.admit_operator(&MetadataMap::new()), Ok(()));
    let stale = guard.admit_fetch(&own, (&q, CoordinatorEpoch(2)), Some(CoordinatorEpoch(3)));
    let stale = stale.expect_err("superseded");
    assert_eq!(crate::fetch_error_of(&stale), FetchError::StaleCoordinator);
}

#[test]
fn a_generated_key_signs_for_itself_alone() {
    let [one, other] = [(); 2].map(|()| TokenSigner::generate().expect("the machine has randomness"));
    assert_ne!(one.public_pem(), other.public_pem());
    let query = QueryId::new("q").expect("a legal id");
    let claims = Claims::query(query, CoordinatorEpoch(1), Duration::from_secs(60));
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
