module sidestream.dev/versus/dnpipes

go 1.22

require github.com/nats-io/nats.go v1.53.1
