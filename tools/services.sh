#!/usr/bin/env bash
# Install and start the servers that tests speak to, each on its usual port of the loopback address.
#
#   tools/services.sh                   all six; what cannot be had is reported
#   tools/services.sh postgresql redis  these; exits 1 if one of them is not up in the end
#
# A server that answers already is left as it is; but with CI=true PostgreSQL is restarted if it cannot do what is tested.
set -euo pipefail

all=(postgresql mariadb redis rabbitmq mosquitto nats)
declare -A port=([postgresql]=5432 [mariadb]=3306 [redis]=6379 [rabbitmq]=5672 [mosquitto]=1883 [nats]=4222)
declare -A program=([postgresql]=pg_ctlcluster [mariadb]=mariadbd [redis]=redis-server
  [rabbitmq]=rabbitmq-server [mosquitto]=mosquitto [nats]=nats-server)
declare -A package=([postgresql]=postgresql [mariadb]=mariadb-server [redis]=redis-server
  [rabbitmq]=rabbitmq-server [mosquitto]=mosquitto [nats]=nats-server [pgbouncer]=pgbouncer)

export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

installed=()

say() { printf '%-11s %s\n' "$1" "$2"; }

answers() { (exec 3<>"/dev/tcp/127.0.0.1/${port[$1]}") 2>/dev/null; }

answers_soon() {
  for _ in $(seq 60); do
    if answers "$1"; then return 0; fi
    sleep 0.5
  done
  return 1
}

missing() {
  for name in "$@"; do
    if ! answers "$name" && ! command -v "${program[$name]}" >/dev/null; then echo "$name"; fi
    # A pooler in front of PostgreSQL: tests start one of their own.
    if [[ $name == postgresql ]] && ! command -v pgbouncer >/dev/null; then echo pgbouncer; fi
  done
}

install_missing() {
  local names packages=()
  mapfile -t names < <(missing "$@")
  if [[ ${#names[@]} -eq 0 ]]; then return 0; fi
  for name in "${names[@]}"; do packages+=("${package[$name]}"); done
  installed=("${names[@]}")
  if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "not installed: ${names[*]}; as root on Debian or Ubuntu: apt-get install ${packages[*]}" >&2
    return 0
  fi
  export DEBIAN_FRONTEND=noninteractive
  if ! apt-get update -qq || ! apt-get install -qq -y --no-install-recommends "${packages[@]}" </dev/null; then
    echo "apt-get could not install: ${packages[*]}" >&2
  fi
}

# A package installed on a machine without a service manager may have no cluster yet.
pg_version() { pg_lsclusters -h | awk '$2 == "main" { print $1 }' | sort -V | tail -n 1; }

ask_postgresql() { psql -h 127.0.0.1 -U postgres -wAtX -c "$1"; }

# Tests come as postgres, without a password. A server that was there before is asked to let them by its owner.
trust_loopback() {
  local rules
  rules=$(su postgres -c "psql -AtX -c 'SHOW hba_file'")
  sed -i '1i host all postgres 127.0.0.1/32 trust' "$rules"
  su postgres -c "psql -AtX -c 'SELECT pg_reload_conf()'"
}

# Two-phase commit is off unless told otherwise, and is tested.
allow_two_phases() {
  if [[ $(ask_postgresql "SHOW max_prepared_transactions") != 0 ]]; then return 0; fi
  ask_postgresql "ALTER SYSTEM SET max_prepared_transactions = 64"
  pg_ctlcluster --skip-systemctl-redirect "$(pg_version)" main restart
}

launch() {
  case $1 in
    postgresql)
      pg_ctlcluster --skip-systemctl-redirect "$(pg_version)" main start
      answers_soon postgresql
      if [[ " ${installed[*]} " == *" postgresql "* ]]; then trust_loopback; fi
      allow_two_phases
      ;;
    mariadb)
      install -d -o mysql -g mysql /run/mysqld
      start-stop-daemon --start --oknodo --background --exec /usr/sbin/mariadbd
      ;;
    redis) redis-server --daemonize yes --bind 127.0.0.1 -::1 --port 6379 --save "" --appendonly no ;;
    rabbitmq) rabbitmq-server -detached ;;
    mosquitto) mosquitto -d -c /etc/mosquitto/mosquitto.conf ;;
    nats)
      start-stop-daemon --start --oknodo --background --exec /usr/sbin/nats-server -- \
        -a 127.0.0.1 -p 4222 -js -sd /var/lib/nats-server -l /var/log/nats-server.log
      ;;
  esac
}

ensure() {
  if answers "$1"; then
    if [[ $1 == postgresql && ${CI:-} == true ]]; then allow_two_phases >/dev/null && answers_soon postgresql; fi
    say "$1" "up on ${port[$1]}"
  elif ! command -v "${program[$1]}" >/dev/null; then
    say "$1" "not installed"
    return 1
  elif launch "$1" >/dev/null && answers_soon "$1"; then
    say "$1" "started on ${port[$1]}"
  else
    say "$1" "did not start on ${port[$1]}"
    return 1
  fi
}

for name in "$@"; do
  if [[ -z ${port[$name]:-} ]]; then
    echo "no service named '$name'; there are: ${all[*]}" >&2
    exit 2
  fi
done

wanted=("$@")
if [[ $# -eq 0 ]]; then wanted=("${all[@]}"); fi

down=()
install_missing "${wanted[@]}"
for name in "${wanted[@]}"; do
  ensure "$name" || down+=("$name")
done

# Named servers were asked for; without names, tests that need an absent one say so themselves.
if [[ $# -gt 0 && ${#down[@]} -gt 0 ]]; then exit 1; fi
