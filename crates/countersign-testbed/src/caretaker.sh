# caretaker FOLDER: when its standard input closes, stops what runs in the folder and removes the folder.
# The files in FOLDER/processes are named for process groups; each holds the signal that stops its group best.
trap '' HUP INT QUIT TERM
while read -r _; do :; done

cd "$1/processes" || exit
each() { for group in [0-9]*; do [ -e "$group" ] && "$1" "$group"; done 2>/dev/null; }
stop() { read -r signal <"$1" && kill -s "$signal" -- "-$1"; }
is_alive() { [ -e "/proc/$1/exe" ] && alive=yes; } # a zombie has none, and may stay one for ever
finish() { kill -s KILL -- "-$1"; }

each stop
tries=0 alive=yes
while [ "$tries" -lt 20 ] && [ "$alive" = yes ]; do
  sleep 0.1
  tries=$((tries + 1)) alive=no
  each is_alive
done
each finish

cd / || exit
for _ in 1 2 3 4 5; do
  rm -rf -- "$1" 2>/dev/null && break
  sleep 0.2
done
