# Adds up cargo's "test result:" lines into one closing line, after what was not
# checked, which is said once more; fails when a test failed or none ran.
/^test result:/ {
    for (field = 2; field <= NF; field++) {
        if ($field == "passed;") passed += $(field - 1)
        if ($field == "failed;") failed += $(field - 1)
        if ($field == "ignored;") skipped += $(field - 1)
    }
}
/NOT CHECKED:/ { missed[++misses] = $0 }
END {
    for (miss = 1; miss <= misses; miss++) print missed[miss]
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    exit failed > 0 || passed == 0
}
