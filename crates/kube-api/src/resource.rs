//! The shell of a custom resource: metadata, spec, status. Unlike the shell that `kube` derives, a
//! missing spec reads as an empty one, which is what Istio's definitions allow.

/// Declares a custom resource around a spec; namespaced and with
/// [`IstioStatus`](crate::status::IstioStatus) unless it says otherwise.
macro_rules! resource {
    (
        $(#[$doc:meta])*
        $kind:ident { spec: $spec:ty, group: $group:expr, version: $version:literal, plural: $plural:literal }
    ) => {
        resource! {
            $(#[$doc])*
            $kind {
                spec: $spec, status: crate::status::IstioStatus, scope: NamespaceResourceScope,
                group: $group, version: $version, plural: $plural
            }
        }
    };
    (
        $(#[$doc:meta])*
        $kind:ident {
            spec: $spec:ty, status: $status:ty, scope: $scope:ident,
            group: $group:expr, version: $version:literal, plural: $plural:literal
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
        #[serde(default)]
        pub struct $kind {
            /// Name, namespace, labels, annotations.
            pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
            /// What the user asks for.
            pub spec: $spec,
            /// What became of it.
            pub status: Option<$status>,
        }

        impl kube::Resource for $kind {
            type DynamicType = ();
            type Scope = kube::core::$scope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                stringify!($kind).into()
            }

            fn group((): &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(
                &mut self,
            ) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }

        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct;
                let fields = 4 + usize::from(self.status.is_some());
                let mut object = serializer.serialize_struct(stringify!($kind), fields)?;
                object.serialize_field(
                    "apiVersion",
                    &<Self as kube::Resource>::api_version(&()),
                )?;
                object.serialize_field("kind", stringify!($kind))?;
                object.serialize_field("metadata", &self.metadata)?;
                object.serialize_field("spec", &self.spec)?;
                if let Some(status) = &self.status {
                    object.serialize_field("status", status)?;
                }
                object.end()
            }
        }
    };
}

pub(crate) use resource;
