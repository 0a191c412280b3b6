# etcd and the API server. Whoever reads this says with `run NAME COMMAND...` how programs are started.

etcd_and_api_server() { # ADDRESS OF-ETCD FLAG...
    local address=$1 etcd=$2 pki=$CLUSTER_STATE/pki kube=$CLUSTER_CACHE/bin/kube
    mkdir -p -m 700 "$CLUSTER_STATE/etcd"
    # Killed, it loses nothing: what it wrote is in the page cache.
    run etcd "$kube" etcd --data-dir "$CLUSTER_STATE/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls "http://$etcd:2379" --advertise-client-urls "http://$etcd:2379" \
        --listen-peer-urls "http://$etcd:2380" --initial-advertise-peer-urls "http://$etcd:2380" \
        --initial-cluster "default=http://$etcd:2380"
    run apiserver "$kube" kube-apiserver --etcd-servers "http://$etcd:2379" \
        --bind-address "$address" --advertise-address "$address" \
        --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --client-ca-file "$pki/ca.crt" \
        --service-account-issuer https://kubernetes.default.svc.cluster.local \
        --service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key" \
        --service-cluster-ip-range "$SERVICE_NET.0.0/16" --allow-privileged \
        --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction,OwnerReferencesPermissionEnforcement \
        --kubelet-client-certificate "$pki/apiserver-kubelet.crt" --kubelet-client-key "$pki/apiserver-kubelet.key" \
        --kubelet-certificate-authority "$pki/ca.crt" --kubelet-preferred-address-types InternalIP \
        --proxy-client-cert-file "$pki/front-proxy.crt" --proxy-client-key-file "$pki/front-proxy.key" \
        --requestheader-client-ca-file "$pki/ca.crt" --requestheader-allowed-names front-proxy \
        --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
        --requestheader-extra-headers-prefix X-Remote-Extra- \
        --audit-policy-file "$here/audit.yaml" --audit-log-path "$CLUSTER_STATE/log/audit.log" \
        "${@:3}"
}
