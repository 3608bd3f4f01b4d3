from keras_swapout.cli import main

main()
