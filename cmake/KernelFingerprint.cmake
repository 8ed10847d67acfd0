# cmake -DLIST=FILE -DSALT=TEXT -DOUT=SOURCE -P KernelFingerprint.cmake: a hash of the files that LIST names, line by line, and of the compiler and its
# flags: what measurements of kernels are remembered by (falconet/plan/tune.h).
file(STRINGS ${LIST} files)
set(all "${SALT}")
foreach(file IN LISTS files)
  file(SHA256 ${file} hash)
  string(APPEND all "${hash}")
endforeach()
string(SHA256 all "${all}")
string(SUBSTRING ${all} 0 16 all)
file(WRITE ${OUT}.new "namespace falconet {\nextern char const* const kernel_fingerprint;\nchar const* const kernel_fingerprint = \"${all}\";\n}  // namespace falconet\n")
file(COPY_FILE ${OUT}.new ${OUT} ONLY_IF_DIFFERENT)
