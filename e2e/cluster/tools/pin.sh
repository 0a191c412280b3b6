#!/bin/sh
# Writes go.mod and go.sum: one module graph for every Kubernetes tool of the cluster, so that they share what is compiled.
# Run by hand for another version; all three must be of one Kubernetes minor.
set -eu
cd "$(dirname "$0")"
kube=1.37.1 staging=0.37.1 coredns=1.15.0 helm=3.22.0
export GOTOOLCHAIN=local GOFLAGS=-modcacherw
rm -f go.mod
its_own=$(cd / && go mod download -json "k8s.io/kubernetes@v$kube" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
{
    printf '// Written by pin.sh.\nmodule sidestream.dev/e2e/cluster/tools\n\ngo 1.26.0\n\n'
    # Helm's command is a package main, which only a tool line may name.
    printf 'tool helm.sh/helm/v3/cmd/helm\n\n'
    printf 'require (\n\tk8s.io/kubernetes v%s\n\tgithub.com/coredns/coredns v%s\n\thelm.sh/helm/v3 v%s\n)\n\n' $kube $coredns $helm
    # Kubernetes requires its staging modules at v0.0.0 and replaces them by folders; who depends on it must repeat the list.
    printf 'replace (\n'
    sed -n 's#^\t\(k8s.io/[a-z-]*\) => ./staging/.*#\t\1 => \1 v'$staging'#p' "$its_own"
    printf ')\n'
} > go.mod
go mod tidy
