#!/bin/sh
# Handles one order: the payload comes on stdin, the result goes to stdout, the exit status decides what becomes of the job.
read -r order || [ -n "$order" ] || exit 65

# The value of a member of the payload.
member() {
    value=${order#*\""$1"\": }
    value=${value%%[,\}]*}
    value=${value#\"}
    value=${value%\"}
}

member order; number=$value
member quantity; quantity=$value
member pay; pay=$value

if [ "$quantity" -eq 0 ]; then
    echo "order $number has nothing in it" >&2
    exit 65 # Trying again cannot help.
fi
case $pay in
    voucher)
        if [ "$QUEUE_ATTEMPT" -eq 1 ]; then
            echo "the voucher office is busy" >&2
            exit 1 # Tried again, by the job's own backoff.
        fi ;;
    nothing)
        echo "order $number is not paid (attempt $QUEUE_ATTEMPT of $QUEUE_MAX_ATTEMPTS)" >&2
        exit 1 ;;
esac
printf '{"order": %s, "cents": %s, "paid_by": "%s"}\n' "$number" $((quantity * 250)) "$pay"
