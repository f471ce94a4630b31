//! VirtualAddressOwner: which node announces an address.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// The node that announces the address of the object's name.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubelb.k8c.io",
    version = "v1alpha1",
    kind = "VirtualAddressOwner",
    status = "VirtualAddressOwnerStatus",
    shortname = "vao",
    category = "kubelb",
    derive = "PartialEq",
    doc = "The node that announces an address. Its name is made from the address, as that of the AddressClaim.",
    validation = Rule::new(
        "self.metadata.name.matches('^v4(-[0-9]{1,3}){4}$') || self.metadata.name.matches('^v6-[0-9a-f]{32}$')"
    )
    .message("the name must be that of an address: v4-203-0-113-10, or v6- and 32 hexadecimal digits"),
    printcolumn = r#"{"name": "Node", "type": "string", "jsonPath": ".spec.node"}"#,
    printcolumn = r#"{"name": "Epoch", "type": "integer", "jsonPath": ".spec.epoch"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.epoch > oldSelf.epoch || (self.epoch == oldSelf.epoch && self.node == oldSelf.node)",
    "message": "another node needs a higher epoch, and an epoch never goes back",
}]))]
pub struct VirtualAddressOwnerSpec {
    /// Name of the node.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// How often the owner was chosen. Of two nodes that both believe to own an address, the one with the higher epoch does.
    #[schemars(range(min = 1))]
    pub epoch: i64,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualAddressOwnerStatus {
    /// Programmed: the node answers for the address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
