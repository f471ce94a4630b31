//! AddressClaim: who has an address. Creating the object is what decides.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// An address that is given out, to whom, and for what.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubelb.k8c.io",
    version = "v1alpha1",
    kind = "AddressClaim",
    status = "AddressClaimStatus",
    shortname = "ac",
    category = "kubelb",
    derive = "PartialEq",
    doc = "An address of a pool that is given out. Its name is made from the address, so that only one can exist.",
    validation = Rule::new(
        "isIP(self.spec.address) && (ip(self.spec.address).family() == 4 \
         ? self.metadata.name == 'v4-' + self.spec.address.replace('.', '-') \
         : self.metadata.name.matches('^v6-[0-9a-f]{32}$'))"
    )
    .message("the name must be that of the address: v4-203-0-113-10, or v6- and 32 hexadecimal digits"),
    printcolumn = r#"{"name": "Address", "type": "string", "jsonPath": ".spec.address"}"#,
    printcolumn = r#"{"name": "Tenant", "type": "string", "jsonPath": ".spec.tenant"}"#,
    printcolumn = r#"{"name": "Holder", "type": "string", "jsonPath": ".spec.holders[*].name"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AddressClaimSpec {
    /// The address.
    #[schemars(length(max = 45), extend("x-kubernetes-validations" = [{
        "rule": "self == oldSelf",
        "message": "the address cannot be changed",
    }]))]
    pub address: String,
    /// Name of the tenant that has it.
    #[schemars(length(min = 1, max = 56), extend("x-kubernetes-validations" = [{
        "rule": "self == oldSelf",
        "message": "the tenant cannot be changed",
    }]))]
    pub tenant: String,
    /// The objects that use it. With none left, the claim goes.
    #[schemars(length(max = 256))]
    pub holders: Vec<Holder>,
}

/// An object that uses an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// LoadBalancer or Route.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its namespace in the management cluster.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its uid, so that an object made anew under the same name is another holder.
    #[schemars(length(min = 1, max = 64))]
    pub uid: String,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressClaimStatus {
    /// Accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
