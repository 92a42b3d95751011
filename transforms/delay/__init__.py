"""The rules of --delay-dequant, by theme: moves past operations that move elements, folds of constants, products."""
