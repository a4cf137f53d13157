# Adds up cargo's "test result:" lines into one closing line; fails when a test
# failed or none ran.
/^test result:/ {
    for (field = 2; field <= NF; field++) {
        if ($field == "passed;") passed += $(field - 1)
        if ($field == "failed;") failed += $(field - 1)
        if ($field == "ignored;") skipped += $(field - 1)
    }
}
END {
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    exit failed > 0 || passed == 0
}
