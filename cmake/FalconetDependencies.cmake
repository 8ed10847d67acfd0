# The system libraries that falconet links into itself, as a static archive where the system ships one (Debian does), so that a
# program needs glibc alone. This file serves the build and, installed, the package's config file.
#
# In the order of linking: a library before those it uses itself.
set(falconet_known_archives jpeg png16 lzma deflate z)
set(falconet_header_jpeg jpeglib.h)
set(falconet_header_png16 png.h)
set(falconet_header_lzma lzma.h)
set(falconet_header_deflate libdeflate.h)
set(falconet_header_z zlib.h)
set(falconet_package_jpeg libjpeg62-turbo-dev)
set(falconet_package_png16 libpng-dev)
set(falconet_package_lzma liblzma-dev)
set(falconet_package_deflate libdeflate-dev)
set(falconet_package_z zlib1g-dev)

# Sets FALCONET_ARCHIVE_<name> to the library, or to ...-NOTFOUND.
macro(falconet_find_archive name)
  find_library(FALCONET_ARCHIVE_${name} NAMES lib${name}.a ${name})
  mark_as_advanced(FALCONET_ARCHIVE_${name})
endmacro()
