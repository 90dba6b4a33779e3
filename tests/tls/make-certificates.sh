#!/bin/sh -e
# Makes the certificates beside it, which are for tests alone and for a hundred years: an authority, what it has signed
# for this machine and for another one, and for a client (of a Docker engine), and an authority that has signed nothing. The keys of the authorities
# are thrown away.
cd "$(dirname "$0")"
keys=$(mktemp -d)
trap 'rm -r "$keys"' EXIT
for name in authority stranger; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj "/CN=test $name" \
        -addext 'keyUsage=critical,keyCertSign,cRLSign' -keyout "$keys/$name" -out "$name.pem"
done
sign() { # NAME SUBJECT_ALT_NAMES USAGE
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=test $1" -keyout "$1.key.pem" \
        -out "$keys/request"
    printf '%s\n' "subjectAltName=$2" basicConstraints=CA:FALSE extendedKeyUsage=$3 \
        authorityKeyIdentifier=keyid subjectKeyIdentifier=hash >"$keys/extensions"
    openssl x509 -req -in "$keys/request" -CA authority.pem -CAkey "$keys/authority" -days 36500 \
        -extfile "$keys/extensions" -out "$1.pem"
}
sign master DNS:localhost,IP:127.0.0.1,IP:::1 serverAuth
sign elsewhere DNS:elsewhere.test serverAuth
sign client DNS:client.test clientAuth
