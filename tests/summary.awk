# Adds up cargo's "test result:" lines into one closing line, after what was not
# checked and what failed, which are said once more; fails when a test failed or
# none ran.
/^test result:/ {
    for (field = 2; field <= NF; field++) {
        if ($field == "passed;") passed += $(field - 1)
        if ($field == "failed;") failed += $(field - 1)
        if ($field == "ignored;") skipped += $(field - 1)
    }
}
# What integration.sh says of the run that follows.
/^== / { next_run = " on" substr($0, 3) }
/^ +Running / { run = next_run; next_run = "" }
/NOT CHECKED:/ { said[++says] = $0 }
/^---- .* stdout ----$/ { said[++says] = "FAILED: " $2 run }
# What it panicked with, up to the backtrace, the advice to ask for one (which only the first
# of a process gives), an empty line or a log.
/^(stack backtrace:|note: run with|--|$)/ { panics = 0 }
panics { said[++says] = "    " $0 }
/^thread '.*panicked at / { panics = 1; said[++says] = "    " $0 }
END {
    for (say = 1; say <= says; say++) print said[say]
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    exit failed > 0 || passed == 0
}
