#!/bin/sh
# Make what compose.yml needs below secrets/: once, and never over what is there.
# Containers see these files with the owner and mode that they have here. The nodes run as 65532, PostgreSQL and Grafana
# as users of their own; as root the files are given to 65532, otherwise everybody who may enter the folder may read
# them, and only you may enter it.
set -eu
folder=$(dirname "$0")/secrets
umask 077
mkdir -p "$folder"
new() { # new FILE: 64 hexadecimal digits
    [ -e "$folder/$1" ] || od -An -tx1 -N32 /dev/urandom | tr -d ' \n' >"$folder/$1"
}
new auth.secret
new database.password
new grafana.password
[ -e "$folder/settings.yml" ] || cat >"$folder/settings.yml" <<END
database:
  url: postgresql://messaging:$(cat "$folder/database.password")@postgres/messaging
END
chmod 0444 "$folder"/*
if [ "$(id -u)" = 0 ]; then
    chown 0:65532 "$folder/auth.secret" "$folder/settings.yml"
    chmod 0440 "$folder/auth.secret" "$folder/settings.yml"
fi
echo "made $folder: $(ls "$folder" | tr '\n' ' ')"
