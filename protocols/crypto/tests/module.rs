//! The hook for certified modules: an operator's provider, whose keys never leave what stands in for an HSM.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::{
    fmt,
    path::Path,
    sync::{Arc, mpsc},
    thread,
};

use common::{Pair, client, server_with, sm2_certificate};
use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    crypto::CryptoProvider,
    pki_types::SubjectPublicKeyInfoDer,
    sign::{Signer, SigningKey},
};
use towline_crypto::{International, KeyError, KeyReference, Provider, Providers, ShangMi};

/// What another process or a card would be: a thread that has the key and signs what it is sent.
#[derive(Clone)]
struct Module {
    requests: mpsc::Sender<(Vec<u8>, mpsc::Sender<Vec<u8>>)>,
    label: &'static str,
    spki: Vec<u8>,
}

impl Module {
    fn start(label: &'static str, key_pem: &str) -> Self {
        let key = ShangMi::default().load_key(&KeyReference::Pem(key_pem.as_bytes().to_vec())).unwrap();
        let spki = key.public_key().unwrap().to_vec();
        let (requests, inbox) = mpsc::channel::<(Vec<u8>, mpsc::Sender<Vec<u8>>)>();
        thread::spawn(move || {
            let signer = key.choose_scheme(&[SignatureScheme::Unknown(0x0708)]).unwrap();
            for (message, answer) in inbox {
                answer.send(signer.sign(&message).unwrap()).unwrap();
            }
        });
        Self { requests, label, spki }
    }
}

/// The whole of what an operator writes.
#[derive(Debug)]
struct ModuleProvider {
    name: &'static str,
    family: ShangMi,
    module: Module,
}

impl Provider for ModuleProvider {
    fn name(&self) -> &str {
        self.name
    }

    fn crypto(&self) -> Arc<CryptoProvider> {
        self.family.crypto()
    }

    fn load_key(&self, reference: &KeyReference) -> Result<Arc<dyn SigningKey>, KeyError> {
        match reference {
            KeyReference::Uri(uri) if uri.strip_prefix("module:") == Some(self.module.label) => {
                Ok(Arc::new(ModuleKey(self.module.clone())))
            }
            KeyReference::Uri(uri) => Err(KeyError::Module(format!("the module has no key {uri}"))),
            _ => Err(KeyError::Module("keys stay in the module; write module:LABEL".to_owned())),
        }
    }
}

struct ModuleKey(Module);

impl SigningKey for ModuleKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = SignatureScheme::Unknown(0x0708);
        offered.contains(&scheme).then(|| Box::new(ModuleSigner(self.0.clone(), scheme)) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.0.spki.as_slice().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::Unknown(8)
    }
}

struct ModuleSigner(Module, SignatureScheme);

impl Signer for ModuleSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let (answer, inbox) = mpsc::channel();
        let gone = |_| Error::General("the module does not answer".into());
        self.0.requests.send((message.to_vec(), answer)).map_err(|_| gone(()))?;
        inbox.recv().map_err(|_| gone(()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.1
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module({})", self.label)
    }
}

impl fmt::Debug for ModuleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ModuleSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[test]
fn a_module_signs_handshakes_with_a_key_that_it_keeps() {
    let certified = sm2_certificate();
    let module = Module::start("edge", &certified.key_pem);
    let providers =
        Providers::default().with(ModuleProvider { name: "module", family: ShangMi::default(), module });
    let provider = providers.get("module").unwrap();

    let key = KeyReference::parse("module:edge", Path::new("/etc/towline"));
    let server = Arc::new(server_with(&**provider, &certified, &key));
    let client = Arc::new(client(&ShangMi::default(), &certified));
    Pair::new(&client, &server).drive().unwrap();
}

#[test]
fn a_module_stands_behind_a_name_that_configurations_use_already() {
    let certified = sm2_certificate();
    let module = Module::start("edge", &certified.key_pem);
    let provider = ModuleProvider { name: ShangMi::NAME, family: ShangMi::default(), module };
    let providers = Providers::default().with(provider);
    assert_eq!(providers.names().collect::<Vec<_>>(), [International::NAME, ShangMi::NAME]);
    let provider = providers.get(ShangMi::NAME).unwrap();
    assert!(provider.load_key(&KeyReference::Uri("module:edge".into())).is_ok());
}

#[test]
fn what_a_module_has_not_is_told_in_its_own_words() {
    let certified = sm2_certificate();
    let module = Module::start("edge", &certified.key_pem);
    let provider = ModuleProvider { name: "module", family: ShangMi::default(), module };
    let check = |reference: KeyReference, expected: &str| {
        let error = provider.load_key(&reference).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(KeyReference::Uri("module:other".into()), "has no key module:other");
    check(KeyReference::File("key.pem".into()), "write module:LABEL");
    let error = ShangMi::default().load_key(&KeyReference::Uri("module:edge".into())).unwrap_err();
    assert!(matches!(error, KeyError::Uri));
}
