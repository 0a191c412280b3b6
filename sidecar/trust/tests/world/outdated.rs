//! What no library of today makes any more: a key of 1024 bits, and signatures of it and of SHA-1.
//!
//! Made once with OpenSSL 3.0: `genrsa 1024`, `ecparam -name prime256v1 -genkey`, then `ca -md sha256` and `ca -md sha1` for
//! one leaf of `spiffe://cluster.local/ns/shop/sa/app`, good for both sides of a handshake from 2020 to 2120.

/// The public key of the authority `weak`, RSA with 1024 bits.
pub(crate) const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDTSFWcA3LjsoJ2doQA3PHRMs5+
gdXxXeDeP53uw33Ex7B22P2jPYyHeK2rIFHlH8QnLyhTlrFEWAuC+uNYBeE1BHSs
qygSEsDxIFEJeX8YFFM6lVGZ9NNMpLQvvRc0jKZOcj0Dj8Qoa1Dxn9nzPCDheE3E
8rbwZHhN/ajH089qhwIDAQAB
-----END PUBLIC KEY-----";

/// A leaf that `weak` signed with SHA-256.
pub(crate) const SIGNED_BY_RSA_1024: &str = "-----BEGIN CERTIFICATE-----
MIIB8zCCAVygAwIBAgIBATANBgkqhkiG9w0BAQsFADAPMQ0wCwYDVQQDDAR3ZWFr
MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAAMFkwEwYHKoZIzj0C
AQYIKoZIzj0DAQcDQgAE7jE4gL0vogeUS4pQQGJIS+jU/cOo/SyGtp5/sAq5wcVr
6/n6rwxuYP5zj0tab4m+5uHqeLn/kQ9s1Y0Vq9kKPqOBsjCBrzAMBgNVHRMBAf8E
AjAAMA4GA1UdDwEB/wQEAwIHgDAdBgNVHSUEFjAUBggrBgEFBQcDAQYIKwYBBQUH
AwIwMAYDVR0RBCkwJ4Ylc3BpZmZlOi8vY2x1c3Rlci5sb2NhbC9ucy9zaG9wL3Nh
L2FwcDAdBgNVHQ4EFgQU3qeHG4aICg9qsOtPWt0XDxopMPEwHwYDVR0jBBgwFoAU
/RDC5WGYxn/jkkce+YblFVtvpLYwDQYJKoZIhvcNAQELBQADgYEALxb/8hALlFUY
ueOugmm97+L65TQiwN4GksqGq06LgzK2BwIw3kVoOnPZGh1BeqmrWLyG7KNilVRg
yh/P4iAHNTnBQfBSK8+cvamaYeYnaVQYh1tBj86Q8SBY7Lq8p1chpTe92mjGrzvz
FjKFPdtqnBtRO0pJJ/ybbON79xfGTU8=
-----END CERTIFICATE-----";

/// The public key of the authority `old`, ECDSA P-256.
pub(crate) const OF_OLD: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE48IxPZDVopgGCT7f1Y/48jK/igTE
QwaWiXQsBy+RQC0zaeiiuo9KRlYOOXWvKLnra79pbOISOzvofJQKIAvMGQ==
-----END PUBLIC KEY-----";

/// A leaf that `old` signed with SHA-1.
pub(crate) const SIGNED_WITH_SHA_1: &str = "-----BEGIN CERTIFICATE-----
MIIBrzCCAVegAwIBAgIBAjAJBgcqhkjOPQQBMA4xDDAKBgNVBAMMA29sZDAgFw0y
MDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowADBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABO4xOIC9L6IHlEuKUEBiSEvo1P3DqP0shraef7AKucHFa+v5+q8M
bmD+c49LWm+Jvubh6ni5/5EPbNWNFavZCj6jgbIwga8wDAYDVR0TAQH/BAIwADAO
BgNVHQ8BAf8EBAMCB4AwHQYDVR0lBBYwFAYIKwYBBQUHAwEGCCsGAQUFBwMCMDAG
A1UdEQQpMCeGJXNwaWZmZTovL2NsdXN0ZXIubG9jYWwvbnMvc2hvcC9zYS9hcHAw
HQYDVR0OBBYEFN6nhxuGiAoParDrT1rdFw8aKTDxMB8GA1UdIwQYMBaAFII+K8T3
QBofgqFdtzIPOAlJeP1aMAkGByqGSM49BAEDRwAwRAIgHdaD4qheBzgEIIbFVJzN
55s0jtE8cTLHTgKfU8FluPACIAZjx4EY9ablv1UmfQl+XmbVCtjmvD/ii0OrR3Um
mzi+
-----END CERTIFICATE-----";

/// The key of both leaves. It is nobody's.
pub(crate) const LEAF_KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg5dfHfuA7yXCVH0LI
CZv8MO91gStPQ0v5UGNQ7tmVDn6hRANCAATuMTiAvS+iB5RLilBAYkhL6NT9w6j9
LIa2nn+wCrnBxWvr+fqvDG5g/nOPS1pvib7m4ep4uf+RD2zVjRWr2Qo+
-----END PRIVATE KEY-----";
