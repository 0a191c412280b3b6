#!/usr/bin/env bash
# certs.sh NODE...: the cluster's authority, the key of its service accounts, and for each client a certificate and a
# kubeconfig, into $CLUSTER_STATE/pki. What is there already stays.
set -euo pipefail
. "$(dirname "$0")/env.sh"
mkdir -p "$CLUSTER_STATE/pki"
cd "$CLUSTER_STATE/pki"

key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"; }

authority() {
    [ -f ca.crt ] && return
    key ca
    openssl req -x509 -new -key ca.key -subj "/CN=$CLUSTER_NAME" -days 3650 -out ca.crt \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
}

service_accounts() {
    [ -f sa.key ] && return
    openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out sa.key
    openssl pkey -in sa.key -pubout -out sa.pub
}

certificate() { # NAME SUBJECT [NAMES]
    [ -f "$1.crt" ] && return
    key "$1"
    openssl req -new -key "$1.key" -subj "$2" | openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 \
        -out "$1.crt" -extfile <(printf '%s\n' keyUsage=critical,digitalSignature extendedKeyUsage=serverAuth,clientAuth \
            ${3:+subjectAltName=$3}) 2> /dev/null
}

client() { # NAME SUBJECT
    certificate "$1" "$2"
    cat > "$1.kubeconfig" <<END
apiVersion: v1
kind: Config
clusters: [{name: $CLUSTER_NAME, cluster: {server: $API, certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: $CLUSTER_NAME, context: {cluster: $CLUSTER_NAME, user: $1}}]
current-context: $CLUSTER_NAME
END
}

authority
service_accounts
certificate apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:$SERVICE_NET.0.1,IP:$NODE_NET.11"
certificate apiserver-kubelet /O=system:masters/CN=apiserver-kubelet
certificate front-proxy /CN=front-proxy
client admin /O=system:masters/CN=admin
client controllers /CN=system:kube-controller-manager
client scheduler /CN=system:kube-scheduler
client proxy /CN=system:kube-proxy
client coredns /CN=coredns
for n in "$@"; do
    certificate "node$n-serving" "/O=system:nodes/CN=system:node:node$n" "DNS:node$n,IP:$NODE_NET.1$n"
    client "node$n" "/O=system:nodes/CN=system:node:node$n"
done
