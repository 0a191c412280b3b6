//! x
use kube::CustomResourceExt;
fn main(){ println!("{}", serde_yaml::to_string(&sidestream_crds::Pipeline::crd()).unwrap()); }
