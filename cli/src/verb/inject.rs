//! `sidestream inject`: sidecars into manifests, as the cluster's webhook adds them to pods. For clusters whose webhooks are
//! off, and to see beforehand what will be added.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde_json::Value;
use sidestream_crds::{CompiledPipeline, compile, documents, to_yaml};
use sidestream_desired::{Facts, inject::into_manifest};

use super::{failed, wrong};
use crate::{
    files::{READ_BYTES_MAX, read},
    output::{complain, print},
};

/// What to inject into.
#[derive(Debug, Args)]
pub(crate) struct Inject {
    /// Files of Deployments and whatever else makes pods; `-` is the standard input
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Files of the pipelines that select the pods: their Secrets are mounted
    #[arg(short, long = "pipeline", value_name = "FILE")]
    pipelines: Vec<PathBuf>,
    /// The namespace of what names none
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The image of the sidecar
    #[arg(long, default_value = concat!("sidestream.dev/sidecar:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// When nodes pull that image
    #[arg(long, default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pull_policy: String,
    /// The operator's control server
    #[arg(long, default_value = "sidestream-operator.sidestream-system.svc:9443")]
    operator: String,
    /// Who the operator is
    #[arg(long, default_value = "spiffe://cluster.local/ns/sidestream-system/sa/sidestream-operator")]
    operator_id: String,
}

impl Inject {
    pub(crate) fn run(self) -> ExitCode {
        let mut pipelines = Vec::new();
        for path in &self.pipelines {
            match self.compiled(path) {
                Ok(own) => pipelines.extend(own),
                Err(code) => return code,
            }
        }
        let mut objects = Vec::new();
        for path in &self.files {
            match self.injected(path, &pipelines) {
                Ok(own) => objects.extend(own),
                Err(code) => return code,
            }
        }
        print(objects.iter().map(to_yaml).collect::<Vec<_>>().join("---\n"))
    }

    fn compiled(&self, path: &Path) -> Result<Vec<CompiledPipeline>, ExitCode> {
        let text = read_or_say(path)?;
        let mut compiled = compile(&text, &path.display().to_string());
        if !compiled.is_ok() {
            compiled.diagnostics.iter().filter(|found| found.is_error()).for_each(complain);
            return Err(wrong());
        }
        for own in &mut compiled.pipelines {
            own.resource.metadata.namespace.get_or_insert_with(|| self.namespace.clone());
        }
        Ok(compiled.pipelines)
    }

    /// The objects of a file, with sidecars.
    fn injected(&self, path: &Path, pipelines: &[CompiledPipeline]) -> Result<Vec<Value>, ExitCode> {
        let file = path.display().to_string();
        let mut objects = documents(&read_or_say(path)?, &file).map_err(|found| {
            found.iter().for_each(complain);
            wrong()
        })?;
        let facts = Facts {
            sidecar_image: self.image.clone(),
            image_pull_policy: Some(self.pull_policy.clone()),
            operator: self.operator.clone(),
            operator_id: self.operator_id.clone(),
        };
        for object in objects.iter_mut().flat_map(each) {
            if let Err(refusal) = into_manifest(object, &self.namespace, pipelines, &facts) {
                let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
                complain(format_args!(
                    "error: {file}: {} `{}`: {refusal}",
                    kind.as_str().unwrap_or_default(),
                    name.as_str().unwrap_or_default()
                ));
                return Err(wrong());
            }
        }
        Ok(objects)
    }
}

/// The objects of a list, or the one there is.
fn each(object: &mut Value) -> Vec<&mut Value> {
    match object["kind"] == "List" && object["items"].is_array() {
        true => object["items"].as_array_mut().into_iter().flatten().collect(),
        false => vec![object],
    }
}

fn read_or_say(path: &Path) -> Result<Vec<u8>, ExitCode> {
    let mut text = Vec::new();
    let done = match path.to_str() {
        Some("-") => io::stdin().lock().take(READ_BYTES_MAX).read_to_end(&mut text).map(|_| text),
        _ => read(path),
    };
    done.map_err(|error| {
        complain(format_args!("error: cannot read {}: {error}", path.display()));
        failed()
    })
}
