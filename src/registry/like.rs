//! Whose manners the registry has: the generations of Nacos, and everything in which they behave differently, as one table.
//!
//! What a refusal says in each generation is in `refusal`, what a list looks like in `listing`; both ask for the generation
//! alone. All else asks the table for a manner, by its name: no call knows a version.

use std::time::Duration;

/// A generation of Nacos, by the release that was listened to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Like {
    /// 1.4.8.
    V1_4,
    /// 2.5.1.
    #[default]
    V2_5,
    /// 3.0.3.
    V3_0,
}

/// What is shown of the health of a service that has too few healthy instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Masks {
    /// Every service is masked, before unhealthy and disabled hosts are left out, and nothing tells.
    Every,
    /// Only a service with settings of its own is, after they were left out, and a flag tells.
    Configured,
}

/// What `casMd5` does when it is not the stored MD5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cas {
    /// Nothing: the content is overwritten.
    Ignored,
    /// The publish is refused.
    Refused,
}

/// Calls of configuration for which the tenant `public` is the empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublicIsEmpty {
    pub(crate) publish: bool,
    pub(crate) get: bool,
    pub(crate) delete: bool,
    pub(crate) listen: bool,
}

/// How a generation behaves.
#[derive(Debug, PartialEq)]
pub(crate) struct Manners {
    /// Of the release that was listened to.
    pub(crate) version: &'static str,
    /// It has a second port, for gRPC.
    pub(crate) grpc: bool,
    /// Forms of POST under `/v1/ns` are read.
    pub(crate) naming_post_forms: bool,
    /// Parameters are checked before any controller.
    pub(crate) parameter_check: bool,
    /// Kinds and clusters have places of their own: a service may hold instances of both kinds, and an address in several clusters.
    pub(crate) places_apart: bool,
    /// Registering a known instance again says its health anew.
    pub(crate) health_by_registration: bool,
    /// `PUT health/instance` changes the health of an instance.
    pub(crate) health_by_hand: bool,
    /// What an operator sets lies over all later registrations.
    pub(crate) operator_overrules: bool,
    /// A weight above 0 and below this one is lifted to it.
    pub(crate) least_weight: f64,
    /// Metadata keep a null value.
    pub(crate) null_metadata: bool,
    /// A full beat keeps alive the service that its JSON names, not the one that the parameter names.
    pub(crate) beat_names_service: bool,
    /// A service with instances can be deleted, and its instances with it.
    pub(crate) delete_with_instances: bool,
    /// While an operator has switched pushes off, they wait for him to switch them on.
    pub(crate) switch_holds_pushes: bool,
    /// The masking of health.
    pub(crate) masks: Masks,
    /// A list may be kept longer by who is pushed; else by everybody as long.
    pub(crate) cache_follows_push: bool,
    /// Who asks to be pushed over UDP has a subscription of its own for each list, and hears of the next change first; else one of
    /// each service, and hears at once.
    pub(crate) subscribes_by_list: bool,
    /// How long a subscription over UDP lives at least that is not asked for again.
    pub(crate) subscribed: Duration,
    /// The comparison on publishing.
    pub(crate) cas: Cas,
    /// The public tenant.
    pub(crate) public_is_empty: PublicIsEmpty,
    /// A content is sent with the `Content-Type` of its type.
    pub(crate) typed_content: bool,
    /// The key of an encrypted content is kept, and sent with it as `Encrypted-Data-Key`.
    pub(crate) encrypted_data_key: bool,
    /// A listener is asked how long he waits before it is known whether he has to.
    pub(crate) hold_first: bool,
    /// A publish says who publishes.
    pub(crate) publisher_said: bool,
    /// Variants of one configuration at most; 1.4.8 knows no bound.
    pub(crate) variants: usize,
}

const V1_4: Manners = Manners {
    version: "1.4.8",
    grpc: false,
    naming_post_forms: false,
    parameter_check: false,
    places_apart: true,
    health_by_registration: false,
    health_by_hand: true,
    operator_overrules: false,
    least_weight: 0.01,
    null_metadata: false,
    beat_names_service: false,
    delete_with_instances: true,
    switch_holds_pushes: false,
    masks: Masks::Every,
    cache_follows_push: true,
    subscribes_by_list: true,
    subscribed: Duration::ZERO,
    cas: Cas::Ignored,
    public_is_empty: PublicIsEmpty {
        publish: true,
        get: true,
        delete: false,
        listen: false,
    },
    typed_content: true,
    encrypted_data_key: false,
    hold_first: true,
    publisher_said: false,
    variants: 100,
};

const V2_5: Manners = Manners {
    version: "2.5.1",
    grpc: true,
    naming_post_forms: true,
    parameter_check: true,
    places_apart: false,
    health_by_registration: true,
    health_by_hand: false,
    operator_overrules: true,
    least_weight: 0.0,
    null_metadata: true,
    beat_names_service: true,
    delete_with_instances: false,
    switch_holds_pushes: true,
    masks: Masks::Configured,
    cache_follows_push: false,
    subscribes_by_list: false,
    subscribed: Duration::from_secs(30),
    cas: Cas::Refused,
    public_is_empty: PublicIsEmpty {
        publish: true,
        get: false,
        delete: false,
        listen: false,
    },
    typed_content: false,
    encrypted_data_key: true,
    hold_first: false,
    publisher_said: true,
    variants: 10,
};

const V3_0: Manners = Manners {
    version: "3.0.3",
    public_is_empty: PublicIsEmpty {
        publish: true,
        get: true,
        delete: true,
        listen: true,
    },
    ..V2_5
};

impl Like {
    /// The table's column.
    pub(crate) fn manners(self) -> &'static Manners {
        match self {
            Self::V1_4 => &V1_4,
            Self::V2_5 => &V2_5,
            Self::V3_0 => &V3_0,
        }
    }
}
